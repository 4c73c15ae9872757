/* The first upsampler of HiFi-GAN V1 on the CPU: 512 to 256 channels, 100 samples to 800. */
#include <stdio.h>
#include <stdlib.h>
#include <tconv/tconv.h>
#include <time.h>

#define TRY(call) \
  if ((call) != TCONV_OK) return fprintf(stderr, "%s\n", tconv_last_error()), 1

int main(void) {
  struct tconv_problem problem = TCONV_PROBLEM_INIT;
  problem.c_in = 512, problem.c_out = 256, problem.kernel = 16, problem.stride = 8, problem.padding = 4;
  const int64_t length = 100, x_size = 512 * length, w_size = 512 * 256 * 16;
  int64_t out_length = 0;
  tconv_plan *plan = NULL;
  TRY(tconv_plan_create(&problem, TCONV_CPU, NULL, &plan));
  TRY(tconv_plan_out_length(plan, length, &out_length));

  float *x = malloc(sizeof(float) * (size_t)x_size), *w = malloc(sizeof(float) * (size_t)w_size);
  float *y = malloc(sizeof(float) * (size_t)(256 * out_length));
  void *packed = aligned_alloc(256, ((size_t)tconv_plan_packed_bytes(plan) + 255) / 256 * 256);
  if (!x || !w || !y || !packed) return fputs("no memory\n", stderr), 1;
  for (int64_t i = 0; i < x_size; ++i) x[i] = (float)(i % 7 - 2);
  for (int64_t i = 0; i < w_size; ++i) w[i] = (float)(i % 5 - 1);

  TRY(tconv_plan_pack(plan, w, 256 * 16, 16, 1, packed, NULL));
  struct tconv_run run = {.struct_size = sizeof run, .x = x, .packed = packed, .y = y, .batch = 1, .length = length};
  run.x_stride_batch = 512 * length, run.x_stride_channel = length, run.x_stride_sample = 1;
  run.y_stride_batch = 256 * out_length, run.y_stride_channel = out_length;
  struct timespec from, to;
  timespec_get(&from, TIME_UTC);
  TRY(tconv_plan_run(plan, &run, NULL));
  timespec_get(&to, TIME_UTC);

  double sum = 0;
  for (int64_t i = 0; i < 256 * out_length; ++i) sum += y[i];
  printf("sum %.0f\ntime %.3f ms\n", sum,
         1e3 * difftime(to.tv_sec, from.tv_sec) + 1e-6 * (double)(to.tv_nsec - from.tv_nsec));
  free(x), free(w), free(y), free(packed), tconv_plan_destroy(plan);
  return 0;
}
