/* The header as C11 sees it: a layer run end to end on the CPU, exactly, and what bad calls return. Needs no GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tconv/tconv.h"

static int failures = 0;

static void expect(int good, const char *what) {
  if (good) return;
  printf("failed: %s (last error: %s)\n", what, tconv_last_error());
  ++failures;
}

/* A refusal has this status and leaves a text. */
static void refused(tconv_status got, tconv_status due, const char *what) {
  expect(got == due && strlen(tconv_last_error()) > 0, what);
}

static void plans(void) {
  tconv_plan *plan = NULL;
  struct tconv_problem problem = TCONV_PROBLEM_INIT;
  expect(strlen(tconv_version()) > 0, "a version");
  expect(strcmp(tconv_last_error(), "") == 0, "no error at first");
  refused(tconv_plan_create(NULL, 0, NULL, &plan), TCONV_INVALID, "a null problem");
  refused(tconv_plan_create(&problem, 0, NULL, NULL), TCONV_INVALID, "a null plan");
  refused(tconv_plan_create(&problem, 0, NULL, &plan), TCONV_UNSUPPORTED, "a problem without channels");
  problem.c_in = problem.c_out = problem.kernel = 4;
  problem.arithmetic = 17;
  refused(tconv_plan_create(&problem, 0, NULL, &plan), TCONV_INVALID, "an unknown arithmetic");
  problem.arithmetic = TCONV_F32;
  problem.bias = 2;
  refused(tconv_plan_create(&problem, 0, NULL, &plan), TCONV_INVALID, "a bias of 2");
  problem.bias = 0;
  problem.after = 7;
  refused(tconv_plan_create(&problem, TCONV_CPU, NULL, &plan), TCONV_INVALID, "an unknown activation");
  problem.after = TCONV_NONE;
  problem.struct_size = 8;
  refused(tconv_plan_create(&problem, 0, NULL, &plan), TCONV_INVALID, "another size of the struct");
  expect(strstr(tconv_last_error(), "struct_size") != NULL, "the text names it");
  problem.struct_size = sizeof problem;
  refused(tconv_plan_create(&problem, -2, NULL, &plan), TCONV_NO_DEVICE, "device -2");
  refused(tconv_plan_create(&problem, TCONV_CPU, "no_such", &plan), TCONV_INVALID, "an unknown solver");
  problem.c_in = problem.c_out = problem.kernel = INT64_MAX / 2;
  refused(tconv_plan_create(&problem, TCONV_CPU, NULL, &plan), TCONV_UNSUPPORTED, "weights of 2^189 elements");
  problem.c_in = problem.c_out = problem.kernel = 4;
  problem.padding = INT64_MAX;
  refused(tconv_plan_create(&problem, TCONV_CPU, NULL, &plan), TCONV_UNSUPPORTED, "a padding of 2^63-1");
  problem.padding = 0;
  problem.dilation = INT64_MAX;
  refused(tconv_plan_create(&problem, TCONV_CPU, NULL, &plan), TCONV_UNSUPPORTED, "a dilation of 2^63-1");
  expect(plan == NULL, "no refusal makes a plan");

  int64_t out_length = 0;
  const struct tconv_run run = {.struct_size = sizeof run};
  refused(tconv_plan_out_length(NULL, 1, &out_length), TCONV_INVALID, "out_length of a null plan");
  refused(tconv_plan_pack(NULL, NULL, 0, 0, 0, NULL, NULL), TCONV_INVALID, "pack of a null plan");
  refused(tconv_plan_run(NULL, &run, NULL), TCONV_INVALID, "run of a null plan");
  refused(tconv_plan_explain(NULL, 1, 1, NULL, 0, NULL), TCONV_INVALID, "explain of a null plan");
  expect(tconv_plan_packed_bytes(NULL) == 0, "packed_bytes of a null plan");
  tconv_plan_destroy(NULL);
}

/* One layer of integers, small enough that every sum is exact. */
enum { kBatch = 2, kIn = 6, kOut = 4, kKernel = 5, kStride = 3, kPadding = 2, kLength = 11 };
enum { kOutLength = (kLength - 1) * kStride - 2 * kPadding + kKernel };
static float x[kBatch * kIn * kLength], w[kIn * kOut * kKernel], bias[kOut], due[kBatch * kOut * kOutLength];
/* y with an element on each side that nothing may write. */
static float around_y[1 + kBatch * kOut * kOutLength + 1], untouched[1 + kBatch * kOut * kOutLength + 1];
static float *const y = around_y + 1;

static void fill(void) {
  for (int i = 0; i < kBatch * kIn * kLength; ++i) x[i] = (float)(i % 7 - 3);
  for (int i = 0; i < kIn * kOut * kKernel; ++i) w[i] = (float)(i % 5 - 2);
  for (int i = 0; i < kOut; ++i) bias[i] = (float)(10 * i);
  for (int b = 0; b < kBatch; ++b)
    for (int o = 0; o < kOut; ++o) {
      float *row = due + (b * kOut + o) * kOutLength;
      for (int t = 0; t < kOutLength; ++t) row[t] = bias[o];
      for (int c = 0; c < kIn; ++c)
        for (int i = 0; i < kLength; ++i)
          for (int k = 0; k < kKernel; ++k) {
            const int t = i * kStride - kPadding + k;
            if (t >= 0 && t < kOutLength) row[t] += x[(b * kIn + c) * kLength + i] * w[(c * kOut + o) * kKernel + k];
          }
    }
}

static void clear(void) {
  for (size_t i = 0; i < sizeof around_y / sizeof *around_y; ++i) around_y[i] = -77;
  memcpy(untouched, around_y, sizeof around_y);
}

static void run_refused(const tconv_plan *plan, const struct tconv_run *run, const struct tconv_how *how,
                        tconv_status status, const char *what) {
  refused(tconv_plan_run(plan, run, how), status, what);
  expect(memcmp(around_y, untouched, sizeof around_y) == 0, "y stays as it was");
}

static void bad_runs(const tconv_plan *plan, const struct tconv_run *good) {
  struct tconv_how how = TCONV_HOW_INIT;
  struct tconv_run run;
#define REFUSED(change, status, what) \
  run = *good;                        \
  run.change;                         \
  run_refused(plan, &run, NULL, status, what)
  run_refused(plan, NULL, NULL, TCONV_INVALID, "a null run");
  REFUSED(struct_size = sizeof run - 8, TCONV_INVALID, "a run of another size");
  REFUSED(x = NULL, TCONV_INVALID, "a null x");
  REFUSED(packed = NULL, TCONV_INVALID, "null packed weights");
  REFUSED(y = NULL, TCONV_INVALID, "a null y");
  REFUSED(bias = NULL, TCONV_INVALID, "a null bias where there is one");
  REFUSED(x_alpha = bias, TCONV_INVALID, "alphas without snake");
  REFUSED(packed = (const char*)good->packed + 1, TCONV_INVALID, "unaligned packed weights");
  REFUSED(x = y, TCONV_INVALID, "x in y");
  REFUSED(bias = y + 3, TCONV_INVALID, "a bias in y");
  REFUSED(y_stride_channel = kOutLength - 1, TCONV_INVALID, "rows of y that overlap");
  REFUSED(y_stride_batch = 1, TCONV_INVALID, "batches of y that overlap");
  REFUSED(y_stride_batch = kOutLength, TCONV_INVALID, "batches of y in the channels of others");
  REFUSED(batch = -1, TCONV_UNSUPPORTED, "a negative batch");
  REFUSED(length = 0, TCONV_UNSUPPORTED, "no length");
  REFUSED(batch = INT64_MAX, TCONV_UNSUPPORTED, "a batch of 2^63-1");
  REFUSED(length = INT64_MAX, TCONV_UNSUPPORTED, "a length of 2^63-1");
  REFUSED(x_stride_batch = INT64_MAX, TCONV_INVALID, "x beyond 2^63 bytes");
  REFUSED(x_stride_sample = INT64_MIN, TCONV_INVALID, "x before -2^63 bytes");
  REFUSED(y_stride_batch = INT64_MAX / 2, TCONV_INVALID, "y beyond 2^63 bytes");
#undef REFUSED
  how.threads = 0;
  run_refused(plan, good, &how, TCONV_INVALID, "no thread");
  how.threads = 10000;
  run_refused(plan, good, &how, TCONV_INVALID, "10000 threads");
  how.threads = 1;
  how.struct_size = 0;
  run_refused(plan, good, &how, TCONV_INVALID, "a how of another size");
}

static void explains(const tconv_plan *plan) {
  size_t needed = 0;
  char text[1000] = "", start[8] = "#######";
  expect(tconv_plan_explain(plan, kBatch, kLength, NULL, 0, &needed) == TCONV_OK && needed > 8, "the text's size");
  expect(needed <= sizeof text, "which is small");
  expect(tconv_plan_explain(plan, kBatch, kLength, text, needed, NULL) == TCONV_OK && strlen(text) == needed - 1,
         "the whole text");
  expect(tconv_plan_explain(plan, kBatch, kLength, start, 5, NULL) == TCONV_OK && strncmp(start, text, 4) == 0,
         "its start");
  expect(start[4] == '\0' && start[5] == '#', "at most as many bytes as were given");
  refused(tconv_plan_explain(plan, -1, kLength, text, sizeof text, NULL), TCONV_UNSUPPORTED, "a negative batch");
  refused(tconv_plan_explain(plan, 1, 1, NULL, 8, NULL), TCONV_INVALID, "a null text");
}

static void cpu(void) {
  struct tconv_problem problem = TCONV_PROBLEM_INIT;
  problem.c_in = kIn, problem.c_out = kOut, problem.kernel = kKernel, problem.stride = kStride;
  problem.padding = kPadding, problem.bias = 1;
  tconv_plan *plan = NULL;
  if (tconv_plan_create(&problem, TCONV_CPU, NULL, &plan) != TCONV_OK) {
    expect(0, "a plan");
    return;
  }
  int64_t out_length = 0;
  expect(tconv_plan_out_length(plan, kLength, &out_length) == TCONV_OK && out_length == kOutLength, "the length");
  refused(tconv_plan_out_length(plan, kLength, NULL), TCONV_INVALID, "a null length");
  refused(tconv_plan_out_length(plan, INT64_MAX, &out_length), TCONV_UNSUPPORTED, "a length of 2^63-1");
  expect(out_length == kOutLength, "a refusal writes no length");

  const size_t bytes = (size_t)tconv_plan_packed_bytes(plan), room = (bytes + 255) / 256 * 256;
  char *packed = aligned_alloc(256, room), *again = aligned_alloc(256, room);
  if (packed == NULL || again == NULL) abort();
  memset(packed, 0x55, room), memset(again, 0xaa, room);
  refused(tconv_plan_pack(plan, NULL, kOut * kKernel, kKernel, 1, packed, NULL), TCONV_INVALID, "null weights");
  refused(tconv_plan_pack(plan, w, kOut * kKernel, kKernel, 1, NULL, NULL), TCONV_INVALID, "pack to null");
  refused(tconv_plan_pack(plan, w, kOut * kKernel, kKernel, 1, packed + 4, NULL), TCONV_INVALID, "pack to +4 bytes");
  refused(tconv_plan_pack(plan, packed + 64, kOut * kKernel, kKernel, 1, packed, NULL), TCONV_INVALID, "pack in place");
  refused(tconv_plan_pack(plan, w, INT64_MAX, kKernel, 1, packed, NULL), TCONV_INVALID, "w beyond 2^63 bytes");
  expect(packed[0] == 0x55 && packed[4] == 0x55, "a refusal packs nothing");
  expect(tconv_plan_pack(plan, w, kOut * kKernel, kKernel, 1, packed, NULL) == TCONV_OK, "pack");
  expect(tconv_plan_pack(plan, w, kOut * kKernel, kKernel, 1, again, NULL) == TCONV_OK, "pack again");
  expect(memcmp(packed, again, bytes) == 0, "packed weights are a value: every byte is written");
  for (size_t i = bytes; i < room; ++i) expect(packed[i] == 0x55, "and none behind it");

  clear();
  struct tconv_run run = {
      .struct_size = sizeof run, .x = x, .packed = packed, .bias = bias, .y = y, .batch = kBatch, .length = kLength};
  run.x_stride_batch = kIn * kLength, run.x_stride_channel = kLength, run.x_stride_sample = 1;
  run.y_stride_batch = kOut * kOutLength, run.y_stride_channel = kOutLength;
  struct tconv_how how = TCONV_HOW_INIT;
  bad_runs(plan, &run);
  for (how.threads = 1; how.threads <= 1024; how.threads *= 4) {
    clear();
    expect(tconv_plan_run(plan, &run, &how) == TCONV_OK && strcmp(tconv_last_error(), "") == 0, "run");
    expect(memcmp(y, due, sizeof due) == 0, "every output is exact");
    expect(around_y[0] == -77 && around_y[1 + kBatch * kOut * kOutLength] == -77, "nothing around y is written");
  }
  struct tconv_run empty = run;
  empty.batch = 0;
  empty.x = empty.y = NULL;
  clear();
  expect(tconv_plan_run(plan, &empty, NULL) == TCONV_OK, "an empty batch");
  expect(memcmp(around_y, untouched, sizeof around_y) == 0, "writes nothing");
  explains(plan);
  free(packed), free(again);
  tconv_plan_destroy(plan);
}

int main(void) {
  plans();
  fill();
  cpu();
  return failures == 0 ? 0 : 1;
}
