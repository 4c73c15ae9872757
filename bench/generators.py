"""Generators of published vocoders and codecs, layer by layer as their configurations say, with random weights: what a
benchmark needs to see transposed convolutions among the layers, the memory traffic and the threads of real models.

x (N, channels, frames) float -> (N, 1, samples). GENERATORS names them; what comes before the first convolution
(a codec's quantizer, a vocoder's acoustic model) is not there. Mimi takes a stream: forward(x, state) -> (y, state).
"""

import dataclasses
import math
import warnings

import torch
from torch import nn
from torch.nn import functional as F


def normed(layer):
    """With weight_norm as these models have it: the hook that computes the weight in every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a newer kind, which the published models do not use
        return nn.utils.weight_norm(layer)


def same(c_in, c_out, kernel, dilation=1):
    """A convolution that keeps the length."""
    return nn.Conv1d(c_in, c_out, kernel, padding=(kernel - 1) // 2 * dilation, dilation=dilation)


# --- HiFi-GAN (arXiv 2010.05646) -----------------------------------------------------------------

class HiFiGanResidual(nn.Module):
    def __init__(self, channels, kernel, dilations):
        super().__init__()
        self.dilated = nn.ModuleList(same(channels, channels, kernel, d) for d in dilations)
        self.plain = nn.ModuleList(same(channels, channels, kernel) for _ in dilations)

    def forward(self, x):
        for dilated, plain in zip(self.dilated, self.plain):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, 0.1)), 0.1))
        return x


class HiFiGan(nn.Module):
    """Version 1. Without weight_norm, which the published program removes before it synthesizes."""

    def __init__(self, mels=80, width=512, strides=(8, 8, 2, 2), kernels=(16, 16, 4, 4), residual_kernels=(3, 7, 11),
                 dilations=(1, 3, 5)):
        super().__init__()
        self.first = same(mels, width, 7)
        self.ups, self.residuals = nn.ModuleList(), nn.ModuleList()
        for stride, kernel in zip(strides, kernels):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, stride, (kernel - stride) // 2))
            width //= 2
            self.residuals.append(nn.ModuleList(HiFiGanResidual(width, k, dilations) for k in residual_kernels))
        self.last = same(width, 1, 7)

    def forward(self, x):
        x = self.first(x)
        for up, residuals in zip(self.ups, self.residuals):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(residual(x) for residual in residuals) / len(residuals)
        return torch.tanh(self.last(F.leaky_relu(x)))


# --- Descript Audio Codec (arXiv 2306.06546) -----------------------------------------------------

class Snake(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x):
        return x + (self.alpha + 1e-9).reciprocal() * (self.alpha * x).sin().pow(2)


class DacResidual(nn.Sequential):
    def __init__(self, channels, dilation):
        super().__init__(Snake(channels), normed(same(channels, channels, 7, dilation)),
                         Snake(channels), normed(same(channels, channels, 1)))

    def forward(self, x):
        return x + super().forward(x)


class Dac(nn.Sequential):
    """The decoder of the 44.1 kHz model. weight_norm stays, as in the published program."""

    def __init__(self, latents=1024, width=1536, strides=(8, 8, 4, 2), dilations=(1, 3, 9)):
        layers = [normed(same(latents, width, 7))]
        for stride in strides:
            layers += [Snake(width), normed(nn.ConvTranspose1d(width, width // 2, 2 * stride, stride, -(-stride // 2)))]
            width //= 2
            layers += [DacResidual(width, dilation) for dilation in dilations]
        super().__init__(*layers, Snake(width), normed(same(width, 1, 7)), nn.Tanh())


# --- EnCodec (arXiv 2210.13438) ------------------------------------------------------------------

class Causal(nn.Module):
    """A convolution of stride 1 that sees the past alone, mirrored where it begins."""

    def __init__(self, c_in, c_out, kernel):
        super().__init__()
        self.convolution = normed(nn.Conv1d(c_in, c_out, kernel))
        self.past = kernel - 1

    def forward(self, x):
        return self.convolution(F.pad(x, (self.past, 0), mode="reflect") if self.past else x)


class CausalUp(nn.Module):
    """What the stride does not cover is cut at the end."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.convolution = normed(nn.ConvTranspose1d(c_in, c_out, 2 * stride, stride))
        self.stride = stride

    def forward(self, x):
        return self.convolution(x)[..., :-self.stride]


class EncodecResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(nn.ELU(), Causal(channels, channels // 2, 3), nn.ELU(),
                                  Causal(channels // 2, channels, 1))
        self.shortcut = Causal(channels, channels, 1)

    def forward(self, x):
        return self.shortcut(x) + self.body(x)


class Recurrent(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers=2)

    def forward(self, x):
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class Encodec(nn.Sequential):
    """The decoder of the 24 kHz model. weight_norm stays, as in the published program."""

    def __init__(self, latents=128, filters=32, strides=(8, 5, 4, 2)):
        width = filters << len(strides)
        layers = [Causal(latents, width, 7), Recurrent(width)]
        for stride in strides:
            layers += [nn.ELU(), CausalUp(width, width // 2, stride), EncodecResidual(width // 2)]
            width //= 2
        super().__init__(*layers, nn.ELU(), Causal(width, 1, 7))


# --- Mimi (arXiv 2410.00037), one step of a stream at a time -------------------------------------

class Streamed(nn.Module):
    """A causal convolution of stride 1. State: the inputs that the next step still sees."""

    def __init__(self, c_in, c_out, kernel):
        super().__init__()
        self.convolution = nn.Conv1d(c_in, c_out, kernel)

    def start(self, batch, like):
        layer = self.convolution
        return [like.new_zeros(batch, layer.in_channels, layer.kernel_size[0] - 1)]

    def forward(self, x, state):
        x = torch.cat([state.pop(0), x], 2)
        past = self.convolution.kernel_size[0] - 1
        return self.convolution(x), [x[..., x.shape[2] - past:]]


class StreamedUp(nn.Module):
    """A causal transposed convolution. State: what this step adds to the outputs of the next, the bias left out."""

    def __init__(self, c_in, c_out, stride, groups=1, bias=True):
        super().__init__()
        self.convolution = nn.ConvTranspose1d(c_in, c_out, 2 * stride, stride, groups=groups, bias=bias)

    def start(self, batch, like):
        layer = self.convolution
        return [like.new_zeros(batch, layer.out_channels, layer.kernel_size[0] - layer.stride[0])]

    def forward(self, x, state):
        y, ahead = self.convolution(x), state.pop(0)
        over = ahead.shape[2]
        ready = torch.cat([y[..., :over] + ahead, y[..., over:]], 2)
        length = y.shape[2] - over
        left = ready[..., length:]
        if self.convolution.bias is not None:
            left = left - self.convolution.bias[:, None]
        return ready[..., :length], [left]


class MimiResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.wide, self.narrow = Streamed(channels, channels // 2, 3), Streamed(channels // 2, channels, 1)

    def start(self, batch, like):
        return self.wide.start(batch, like) + self.narrow.start(batch, like)

    def forward(self, x, state):
        y, wide = self.wide(F.elu(x), state)
        y, narrow = self.narrow(F.elu(y), state)
        return x + y, wide + narrow


class Attention(nn.Module):
    """A layer of the transformer between the upsampler and the convolutions. State: keys, values."""

    def __init__(self, width=512, heads=8, hidden=2048, context=250):
        super().__init__()
        self.heads, self.context = heads, context
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.scales = nn.ParameterList(torch.full((width,), 0.01) for _ in range(2))
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.hidden = nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(),
                                    nn.Linear(hidden, width, bias=False))

    def start(self, batch, like):
        """That of a stream which has run for a while: the whole context, of zeros."""
        width = self.out.in_features // self.heads
        return [like.new_zeros(batch, self.heads, self.context, width) for _ in range(2)]

    def forward(self, x, state, cosines, sines):
        batch, steps, width = x.shape
        q, k, v = self.queries_keys_values(self.norms[0](x)).view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = turned(q, cosines, sines), turned(k, cosines, sines)
        k, v = torch.cat([state.pop(0), k], 2), torch.cat([state.pop(0), v], 2)
        seen = torch.ones(steps, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - steps)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.scales[0] * self.out(y.transpose(1, 2).reshape(batch, steps, width))
        x = x + self.scales[1] * self.hidden(self.norms[1](x))
        return x, [k[:, :, steps:], v[:, :, steps:]]


def turned(x, cosines, sines):
    """Rotary positions: each pair of neighbours turned by its angle."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cosines - b * sines, a * sines + b * cosines], -1).flatten(-2)


class Mimi(nn.Module):
    """The decoder behind the quantizer: upsampler, transformer, convolutions."""

    def __init__(self, width=512, filters=64, strides=(8, 6, 5, 4), layers=8):
        super().__init__()
        self.upsample = StreamedUp(width, width, 2, groups=width, bias=False)
        self.attention = nn.ModuleList(Attention(width) for _ in range(layers))
        channels = filters << len(strides)
        self.first = Streamed(width, channels, 7)
        self.ups, self.residuals = nn.ModuleList(), nn.ModuleList()
        for stride in strides:
            self.ups.append(StreamedUp(channels, channels // 2, stride))
            channels //= 2
            self.residuals.append(MimiResidual(channels))
        self.last = Streamed(channels, 1, 3)

    def start(self, batch, like):
        """The state before the first step, on the device and of the dtype of `like`."""
        state = [torch.zeros((), device=like.device)]
        pairs = (part for pair in zip(self.ups, self.residuals) for part in pair)
        for part in (self.upsample, *self.attention, self.first, *pairs, self.last):
            state += part.start(batch, like)
        return state

    def forward(self, x, state):
        state, after = list(state), []
        position = state.pop(0)
        x, new = self.upsample(x, state)
        after += new
        steps, width = x.shape[2], x.shape[1] // self.attention[0].heads
        rates = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10000) / width))
        angles = (position + torch.arange(steps, device=x.device))[:, None] * rates
        cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        x = x.transpose(1, 2)
        for layer in self.attention:
            x, new = layer(x, state, cosines, sines)
            after += new
        x = x.transpose(1, 2)
        x, new = self.first(x, state)
        after += new
        for up, residual in zip(self.ups, self.residuals):
            x, new = up(F.elu(x), state)
            after += new
            x, new = residual(x, state)
            after += new
        x, new = self.last(F.elu(x), state)
        return x, [position + steps, *after, *new]


# --- all of them ---------------------------------------------------------------------------------

@dataclasses.dataclass
class Generator:
    build: type
    channels: int  # of the input
    frames: float  # a second
    samples: int  # a frame


GENERATORS = {
    "HiFi-GAN V1": Generator(HiFiGan, 80, 22050 / 256, 256),
    "DAC 44.1 kHz": Generator(Dac, 1024, 44100 / 512, 512),
    "EnCodec 24 kHz": Generator(Encodec, 128, 75, 320),
    "Mimi, streaming": Generator(Mimi, 512, 12.5, 1920),
}
