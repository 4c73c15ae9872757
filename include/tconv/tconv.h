/* Transposed 1-D convolution on the CPU and on CUDA GPUs: the C interface of libtconv.so. C11.
 *
 *   y[b,co,t] = bias[co] + sum over (ci,k,i) with i*stride - padding + k*dilation == t
 *               of x[b,ci,i] * w[ci,co,k]
 *
 * Plan a layer once, pack its weights once, run it at any batch and length:
 *
 *   struct tconv_problem problem = TCONV_PROBLEM_INIT;
 *   problem.c_in = 512, problem.c_out = 256, problem.kernel = 16, problem.stride = 8, problem.padding = 4;
 *   tconv_plan *plan = NULL;
 *   if (tconv_plan_create(&problem, TCONV_CPU, NULL, &plan) != TCONV_OK) puts(tconv_last_error());
 *
 * Every function that can fail returns a status; tconv_last_error() has one line about it. Functions may be called from
 * any thread; a plan may be used by several at once, and must outlive what it launched. */
#ifndef TCONV_TCONV_H
#define TCONV_TCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TCONV_API __attribute__((visibility("default")))
#else
#define TCONV_API
#endif

typedef enum tconv_status {
  TCONV_OK = 0,
  TCONV_INVALID = 2,     /* an argument is malformed */
  TCONV_UNSUPPORTED = 3, /* well formed, but nothing here can serve it */
  TCONV_NO_DEVICE = 4,   /* no GPU, no driver or no compiler, or one of them failed */
  TCONV_DEFECT = 70      /* a fault of tconv */
} tconv_status;

/* What sums are computed in. Storage follows: TF32 stores float, F16 and BF16 sum in float. */
typedef enum tconv_arithmetic {
  TCONV_F32 = 0,
  TCONV_TF32 = 1,
  TCONV_F16 = 2,
  TCONV_BF16 = 3,
  TCONV_F64 = 4,
  TCONV_I32 = 5
} tconv_arithmetic;

/* Of one element v; a is the parameter beside it. snake has one alpha a channel, given to each run. */
typedef enum tconv_activation {
  TCONV_NONE = 0,
  TCONV_RELU = 1,
  TCONV_LEAKY_RELU = 2, /* v < 0 ? a*v : v */
  TCONV_ELU = 3,        /* v < 0 ? a*(exp(v)-1) : v */
  TCONV_GELU = 4,       /* v/2 * (1+erf(v/sqrt(2))) */
  TCONV_TANH = 5,
  TCONV_SNAKE = 6 /* v + sin(alpha*v)^2 / (alpha+1e-9) */
} tconv_activation;

#define TCONV_CPU (-1)

struct tconv_problem {
  size_t struct_size; /* sizeof(struct tconv_problem) of the caller's header */
  int64_t c_in;
  int64_t c_out;
  int64_t kernel;
  int64_t stride;
  int64_t padding;
  int64_t output_padding;
  int64_t dilation;
  int64_t groups;
  int32_t arithmetic; /* tconv_arithmetic */
  int32_t bias;       /* 0 or 1 */
  int32_t before;     /* tconv_activation of x */
  int32_t after;      /* tconv_activation of y, behind the bias */
  double before_parameter;
  double after_parameter;
};
#define TCONV_PROBLEM_INIT \
  {sizeof(struct tconv_problem), 0, 0, 0, 1, 0, 0, 1, 1, TCONV_F32, 0, TCONV_NONE, TCONV_NONE, 0, 0}

typedef struct tconv_plan tconv_plan;

/* "0.1.0" */
TCONV_API const char *tconv_version(void);

/* One line about this thread's last failure, valid until its next call; "" when none failed. */
TCONV_API const char *tconv_last_error(void);

/* `device`: TCONV_CPU, or a CUDA device's number, for which it compiles the kernels: seconds the first time. `solver`:
 * NULL chooses. */
TCONV_API tconv_status tconv_plan_create(const struct tconv_problem *problem, int device, const char *solver,
                                         tconv_plan **plan);
/* NULL is allowed. */
TCONV_API void tconv_plan_destroy(tconv_plan *plan);

/* Bytes of the device's memory that the packed weights take; 0 for a NULL plan. Align the memory to 256. A CPU's can be
 * kept in a file: of one version of tconv, they are the same on every machine of its byte order. */
TCONV_API int64_t tconv_plan_packed_bytes(const tconv_plan *plan);

/* The length of the output for an input length. */
TCONV_API tconv_status tconv_plan_out_length(const tconv_plan *plan, int64_t length, int64_t *out_length);

/* Threads of the caller's own: calls `body(data)` once on each of up to `threads` threads, the caller's among them, and
 * returns when all calls have; `flags` are 0. GNU OpenMP's GOMP_parallel is one. */
typedef void (*tconv_parallel)(void (*body)(void *data), void *data, unsigned threads, unsigned flags);

/* How a call runs. On a GPU: asynchronous on `stream` (a CUstream or cudaStream_t; NULL is the default stream);
 * `threads` is ignored. On the CPU: on 1 to 1024 threads, the caller's among them, done on return; what it writes does
 * not depend on their number. Those are tconv's threads, or the caller's where `parallel` is not NULL: a program whose
 * other parts keep threads of their own awake should share those. */
struct tconv_how {
  size_t struct_size; /* sizeof(struct tconv_how) of the caller's header */
  void *stream;
  int32_t threads;
  tconv_parallel parallel;
};
#define TCONV_HOW_INIT {sizeof(struct tconv_how), NULL, 1, NULL}

/* w (c_in, c_out/groups, kernel) on the device, strides in elements. `how`: NULL is TCONV_HOW_INIT. */
TCONV_API tconv_status tconv_plan_pack(const tconv_plan *plan, const void *w, int64_t stride_in, int64_t stride_out,
                                       int64_t stride_k, void *packed, const struct tconv_how *how);

struct tconv_run {
  size_t struct_size; /* sizeof(struct tconv_run) of the caller's header */
  const void *x;      /* (batch, c_in, length), aligned to an element */
  const void *packed; /* what tconv_plan_pack wrote */
  const void *bias;   /* c_out elements where the problem has a bias, else NULL */
  void *y;            /* (batch, c_out, out_length), the last dimension dense */
  int64_t batch;
  int64_t length;
  int64_t x_stride_batch; /* in elements */
  int64_t x_stride_channel;
  int64_t x_stride_sample;
  int64_t y_stride_batch;
  int64_t y_stride_channel;
  const void *x_alpha; /* c_in values where `before` is snake, else NULL: double for f64, else float */
  const void *y_alpha; /* c_out values where `after` is snake, else NULL */
};

/* On a GPU: allocates and synchronises nothing, so it can be captured in a graph. On the CPU: y may not overlap what is
 * read; a thread keeps the working memory of its calls (explain tells its size). `how`: NULL is TCONV_HOW_INIT. */
TCONV_API tconv_status tconv_plan_run(const tconv_plan *plan, const struct tconv_run *run,
                                      const struct tconv_how *how);

/* What runs at this batch and length, and why. Writes at most `size` bytes, the terminating zero included, and sets
 * *needed (may be NULL) to what the whole text needs. */
TCONV_API tconv_status tconv_plan_explain(const tconv_plan *plan, int64_t batch, int64_t length, char *text,
                                          size_t size, size_t *needed);

#ifdef __cplusplus
}
#endif

#endif
