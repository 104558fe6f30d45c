// Which kernels this processor can run.
#include "kernels.h"

namespace foveate {

namespace portable { const Kernels* kernels(); }
namespace avx2 { const Kernels* kernels(); }
namespace avx512 { const Kernels* kernels(); }

namespace {

bool has_avx2() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx512() {
#ifdef __x86_64__
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

}  // namespace

const Kernels* kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return portable::kernels();
    case Isa::kAvx2: return has_avx2() ? avx2::kernels() : nullptr;
    case Isa::kAvx512: return has_avx512() ? avx512::kernels() : nullptr;
    case Isa::kBest: break;
    default: return nullptr;
  }
  if (has_avx512()) return avx512::kernels();
  return has_avx2() ? avx2::kernels() : portable::kernels();
}

}  // namespace foveate
