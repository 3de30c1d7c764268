// Where a sequence's keys and values of one layer lie.

#pragma once

#include <cstdint>

extern "C" {

// Both [heads, rows, dim], a head's rows side by side; `head_stride` numbers from head to head.
struct DyvteRun {
  float* keys;
  float* values;
  int64_t head_stride;
  int64_t rows;
};
}
