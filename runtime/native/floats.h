// Numbers at addresses that vectors like.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace foveate {

template <class T>
struct Aligned {
  typedef T value_type;
  static constexpr std::align_val_t kLine{64};  // of a cache, and the longest vector
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* at, size_t) { ::operator delete(at, kLine); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

using Floats = std::vector<float, Aligned<float>>;
using Bytes = std::vector<uint8_t, Aligned<uint8_t>>;

}  // namespace foveate
