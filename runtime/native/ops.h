// Running one op at given positions.
#pragma once
#include <vector>

#include "maps.h"
#include "pool.h"

namespace foveate {

struct Buffer;
struct Cell;

// Into the op's buffer or, with `rows`, into [cells][channels] there.
void compute(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x,
             const std::vector<Cell>& cells, Pool::Run& run, float* rows = nullptr);

}  // namespace foveate
