/* The header as C11 sees it, and what bad calls return. Needs no GPU. */
#include <stdio.h>
#include <string.h>

#include "tconv/tconv.h"

static int failures = 0;

static void expect(int good, const char *what) {
  if (good) return;
  printf("failed: %s (last error: %s)\n", what, tconv_last_error());
  ++failures;
}

int main(void) {
  tconv_plan *plan = NULL;
  struct tconv_problem problem = TCONV_PROBLEM_INIT;
  expect(strlen(tconv_version()) > 0, "a version");
  expect(strcmp(tconv_last_error(), "") == 0, "no error at first");
  expect(tconv_plan_create(NULL, 0, NULL, &plan) == TCONV_INVALID, "a null problem");
  expect(strlen(tconv_last_error()) > 0, "a text");
  expect(tconv_plan_create(&problem, 0, NULL, NULL) == TCONV_INVALID, "a null plan");
  expect(tconv_plan_create(&problem, 0, NULL, &plan) == TCONV_UNSUPPORTED && plan == NULL, "a problem without channels");
  problem.c_in = problem.c_out = problem.kernel = 4;
  problem.arithmetic = 17;
  expect(tconv_plan_create(&problem, 0, NULL, &plan) == TCONV_INVALID, "an unknown arithmetic");
  problem.arithmetic = TCONV_F32;
  problem.bias = 2;
  expect(tconv_plan_create(&problem, 0, NULL, &plan) == TCONV_INVALID, "a bias of 2");
  problem.bias = 0;
  problem.struct_size = 8;
  expect(tconv_plan_create(&problem, 0, NULL, &plan) == TCONV_INVALID, "another size of the struct");
  expect(strstr(tconv_last_error(), "struct_size") != NULL, "the text names it");
  problem.struct_size = sizeof problem;
  expect(tconv_plan_create(&problem, -2, NULL, &plan) == TCONV_NO_DEVICE && plan == NULL, "device -2");
  expect(strlen(tconv_last_error()) > 0, "a text");
  int64_t out_length = 0;
  struct tconv_run run = {sizeof run, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, NULL, NULL};
  expect(tconv_plan_out_length(NULL, 1, &out_length) == TCONV_INVALID, "out_length of a null plan");
  expect(tconv_plan_pack(NULL, NULL, 0, 0, 0, NULL, NULL) == TCONV_INVALID, "pack of a null plan");
  expect(tconv_plan_run(NULL, &run, NULL) == TCONV_INVALID, "run of a null plan");
  expect(tconv_plan_explain(NULL, 1, 1, NULL, 0, NULL) == TCONV_INVALID, "explain of a null plan");
  expect(tconv_plan_packed_bytes(NULL) == 0, "packed_bytes of a null plan");
  tconv_plan_destroy(NULL);
  return failures == 0 ? 0 : 1;
}
