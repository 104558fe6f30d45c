// What the opaque pools of the C ABI are, for all files that implement it.
#pragma once
#include "foveate.h"
#include "pool.h"

struct FvPool {
  foveate::Pool pool;
};

namespace foveate {

inline Pool* of(FvPool* pool) { return pool ? &pool->pool : nullptr; }

}  // namespace foveate
