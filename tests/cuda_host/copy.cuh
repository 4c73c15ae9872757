// Stands in for kernels/copy.cuh on the CPU: copies arrive when they are waited for.
#pragma once

#include "ptx.cuh"

namespace tconv {

template <int Bytes>
void copy_async(unsigned to, const void* from, bool present) {
  host::touches_global_memory();
  char* const place = host::shared_bytes() + static_cast<int>(to);
  if (to % Bytes != 0 || (present && reinterpret_cast<std::uintptr_t>(from) % Bytes != 0))
    host::fail("a copy is aligned to its size");
  host::copies.back().push_back([place, from, present] {
    if (present)
      std::memcpy(place, from, Bytes);
    else
      std::memset(place, 0, Bytes);
  });
}
inline void commit_copies() { host::copies.emplace_back(); }
template <int PENDING>
void wait_groups() {
  host::finish(host::copies, PENDING);
}
inline void wait_copies() {
  commit_copies();
  host::finish(host::copies, 0);
}

}  // namespace tconv
