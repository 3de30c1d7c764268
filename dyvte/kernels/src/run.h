// Where a sequence's keys and values of one layer lie, in the type of the rows that read them.

#pragma once

#include <cstdint>

extern "C" {

// Both [heads, rows, dim], a head's rows side by side; `head_stride` numbers from head to head.
struct DyvteRun {
  void* keys;
  void* values;
  int64_t head_stride;
  int64_t rows;
};
}
