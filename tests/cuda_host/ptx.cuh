// Stands in for kernels/ptx.cuh where a kernel runs on the CPU (cuda_host_*_test.cpp): what its instructions do, by
// threads of the host that share a block's memory. Asynchronous copies and products run as late as the kernel lets
// them, bulk copies at once. HOST_MEMORY: what the kernel's dynamic shared memory is an array of, if it has any.
#pragma once

#include <algorithm>
#include <array>
#include <barrier>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#define __device__
#define __host__
#define __global__
#ifdef HOST_MEMORY
#define __shared__  // extern, below
#else
#define __shared__ static  // of one block at a time
#endif
#define __forceinline__ inline
#define __grid_constant__

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

struct Index {
  unsigned x;
};
inline thread_local Index threadIdx;
inline Index blockIdx, blockDim, gridDim;

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t both = static_cast<std::uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(both >> (selector >> (4 * i) & 7) * 8 & 0xFF) << (8 * i);
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(high) << 32 | low) << shift >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(high) << 32 | low) >> shift);
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __fmaf_rn(float a, float b, float c) { return a * b + c; }
inline double __fma_rn(double a, double b, double c) { return a * b + c; }
inline std::size_t __cvta_generic_to_shared(const void* pointer);

namespace tconv {

inline constexpr int SHARED_MOST = 227 << 10;
#ifdef HOST_MEMORY
alignas(1024) inline HOST_MEMORY memory[SHARED_MOST / sizeof(HOST_MEMORY)];  // of the block that runs
#endif

namespace host {

// Where shared addresses count from: dynamic memory's start, or a place beside what is static.
#ifdef HOST_MEMORY
inline char* shared_bytes() { return reinterpret_cast<char*>(memory); }
#else
alignas(1024) inline char anchor[1024];
inline char* shared_bytes() { return anchor; }
#endif

// What the threads of a block meet at.
struct Block {
  explicit Block(int threads) : all(threads) {
    for (int warp = 0; warp < threads / 32; ++warp) warps.push_back(std::make_unique<Warp>());
    for (int group = 0; group < (threads + 127) / 128; ++group) groups.push_back(std::make_unique<std::barrier<>>(128));
    for (std::size_t i = 0; i < named.size(); ++i) named[i] = std::make_unique<std::barrier<>>(i < 3 ? 128 : 256);
  }
  struct Warp {
    std::barrier<> meet{32};
    std::array<std::array<unsigned, 8>, 32> words{};
  };
  std::barrier<> all;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<std::unique_ptr<std::barrier<>>> groups;
  std::array<std::unique_ptr<std::barrier<>>, 5> named;  // of a warpgroup, and from the fourth on of two
  std::mutex mutex;  // of every mbarrier
  std::condition_variable changed;
};
inline Block* block = nullptr;

// What every lane gave, up to eight words each.
template <std::size_t WORDS>
std::array<std::array<unsigned, WORDS>, 32> exchange(const std::array<unsigned, WORDS>& mine) {
  Block::Warp& warp = *block->warps[threadIdx.x / 32];
  std::ranges::copy(mine, warp.words[threadIdx.x % 32].begin());
  warp.meet.arrive_and_wait();
  std::array<std::array<unsigned, WORDS>, 32> all;
  for (std::size_t lane = 0; lane < 32; ++lane) std::copy_n(warp.words[lane].begin(), WORDS, all[lane].begin());
  warp.meet.arrive_and_wait();
  return all;
}

[[noreturn]] inline void fail(const char* what) {
  std::fputs(what, stderr);
  std::fputc('\n', stderr);
  std::abort();
}

struct Mbarrier {
  std::uint16_t count, pending;
  std::int32_t transactions : 31;  // bytes
  std::uint32_t phase : 1;
};
static_assert(sizeof(Mbarrier) == 8);
inline Mbarrier& mbarrier(unsigned address) { return *reinterpret_cast<Mbarrier*>(shared_bytes() + address); }
inline void settle(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.transactions != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.count;
  block->changed.notify_all();
}

// Whether this thread has waited for the kernels before its own, without which it touches no global memory.
inline thread_local bool has_waited = false;
inline void touches_global_memory() {
  if (!has_waited) fail("global memory is touched before the kernels before this one have ended");
}

// What this thread started and has not waited for, by the groups it was committed in.
using Started = std::vector<std::vector<std::function<void()>>>;
inline thread_local Started products{{}}, copies{{}};
inline void finish(Started& groups, std::size_t pending) {
  while (groups.size() > pending + 1) {
    for (const auto& one : groups.front()) one();
    groups.erase(groups.begin());
  }
}

}  // namespace host

namespace ptx {

enum class Operand { tf32, f16, bf16 };

inline unsigned shared_address(const void* pointer) { return static_cast<unsigned>(__cvta_generic_to_shared(pointer)); }

// --- mbarrier -----------------------------------------------------------------------------------

inline void mbarrier_init(unsigned barrier, unsigned arrivals) {
  const auto count = static_cast<std::uint16_t>(arrivals);
  host::mbarrier(barrier) = {count, count, 0, 0};
}
inline void mbarrier_init_fence() {}
inline void mbarrier_change(unsigned barrier, int arrivals, int bytes) {
  const std::lock_guard lock(host::block->mutex);
  host::Mbarrier& one = host::mbarrier(barrier);
  if (one.pending < arrivals) host::fail("more arrivals than the barrier counts");
  one.pending = static_cast<std::uint16_t>(one.pending - arrivals);
  one.transactions += bytes;
  host::settle(one);
}
inline void mbarrier_arrive(unsigned barrier) { mbarrier_change(barrier, 1, 0); }
inline void mbarrier_arrive_expect(unsigned barrier, unsigned bytes) {
  mbarrier_change(barrier, 1, static_cast<int>(bytes));
}
inline void mbarrier_wait(unsigned barrier, unsigned parity) {
  std::unique_lock lock(host::block->mutex);
  host::block->changed.wait(lock, [&] { return host::mbarrier(barrier).phase != parity; });
}

// --- kernels in a row: one at a time ------------------------------------------------------------

inline void let_next_kernel_start() {}
inline void wait_for_kernels_before() { host::has_waited = true; }

// --- clusters: not here -------------------------------------------------------------------------

inline unsigned cluster_rank() { host::fail("one block alone"); }
inline void cluster_barrier() { host::fail("one block alone"); }
inline unsigned of_block(unsigned, unsigned) { host::fail("one block alone"); }
inline void mbarrier_arrive_of_block(unsigned) { host::fail("one block alone"); }
inline void store_to_block(unsigned, float, float, float, float, unsigned) { host::fail("one block alone"); }
inline void mbarrier_wait_for_blocks(unsigned, unsigned) { host::fail("one block alone"); }

// --- copies, order ------------------------------------------------------------------------------

inline void bulk_load(unsigned shared, const void* global, unsigned bytes, unsigned barrier) {
  host::touches_global_memory();
  if (shared % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0 || bytes % 16 != 0)
    host::fail("a bulk copy is of whole 16 bytes");
  std::memcpy(host::shared_bytes() + shared, global, bytes);
  mbarrier_change(barrier, 0, -static_cast<int>(bytes));
}
inline void fence_async_shared() {}
inline void barrier(int id, int threads) {
  if (threads != (id < 3 ? 128 : 256)) host::fail("barriers of a warpgroup, and from the fourth on of two");
  host::block->named[static_cast<std::size_t>(id)]->arrive_and_wait();
}
inline void barrier_arrive(int id, int threads) {
  if (threads != 256 || id < 3) host::fail("a warpgroup arrives for another one");
  static_cast<void>(host::block->named[static_cast<std::size_t>(id)]->arrive());
}
template <int COUNT>
void settled(float (&)[COUNT]) {}
inline void wgmma_fence() {}
inline void wgmma_commit() { host::products.emplace_back(); }
template <int PENDING>
void wgmma_wait() {
  host::finish(host::products, PENDING);
  host::block->groups[threadIdx.x / 128]->arrive_and_wait();  // the warps' parts are one product
}
template <int BEFORE, int COUNT>
void registers_change() {}

inline unsigned uniform(unsigned value) {
  for (const auto& other : host::exchange<1>({value})) {
    if (other[0] != value) host::fail("not uniform");
  }
  return value;
}

// --- shared and global memory -------------------------------------------------------------------

inline void store_shared(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  if (address % 16 != 0) host::fail("a store of 16 bytes is aligned");
  const unsigned words[] = {a, b, c, d};
  std::memcpy(host::shared_bytes() + address, words, 16);
}
inline void store_shared(unsigned address, unsigned a, unsigned b) {
  if (address % 8 != 0) host::fail("a store of 8 bytes is aligned");
  const unsigned words[] = {a, b};
  std::memcpy(host::shared_bytes() + address, words, 8);
}
inline void store_shared(unsigned address, unsigned a) {
  if (address % 4 != 0) host::fail("a store of 4 bytes is aligned");
  std::memcpy(host::shared_bytes() + address, &a, 4);
}
inline void store_shared(unsigned address, unsigned short a) {
  if (address % 2 != 0) host::fail("a store of 2 bytes is aligned");
  std::memcpy(host::shared_bytes() + address, &a, 2);
}
inline unsigned add_shared(unsigned address, unsigned what) {
  if (address % 4 != 0) host::fail("a word is aligned");
  const std::lock_guard lock(host::block->mutex);
  unsigned before;
  std::memcpy(&before, host::shared_bytes() + address, 4);
  const unsigned after = before + what;
  std::memcpy(host::shared_bytes() + address, &after, 4);
  return before;
}
inline void load_shared(unsigned address, unsigned& a, unsigned& b, unsigned& c, unsigned& d) {
  if (address % 16 != 0) host::fail("a load of 16 bytes is aligned");
  unsigned words[4];
  std::memcpy(words, host::shared_bytes() + address, 16);
  a = words[0], b = words[1], c = words[2], d = words[3];
}
inline void together(unsigned (&)[8]) {}
template <class Value>
void load_if(bool condition, const void* address, Value& value) {
  host::touches_global_memory();
  if (!condition) return;
  if (reinterpret_cast<std::uintptr_t>(address) % sizeof(value) != 0) host::fail("a load is aligned");
  std::memcpy(&value, address, sizeof(value));
}
inline void load_pair_if(bool first, bool second, const unsigned short* address, unsigned& v) {
  host::touches_global_memory();
  v = (first ? address[0] : 0u) | (second ? address[1] : 0u) << 16;
}
inline void load_pair_if(bool first, bool second, const float* address, uint2& v) {
  load_if(first, address, v.x);
  load_if(second, address + 1, v.y);
}
template <class Value>
void store_if(bool condition, void* address, Value value) {
  host::touches_global_memory();
  if (!condition) return;
  if (reinterpret_cast<std::uintptr_t>(address) % sizeof(value) != 0) host::fail("a store is aligned");
  std::memcpy(address, &value, sizeof(value));
}
inline void store_if(bool condition, void* address, float first, float second) {
  store_if(condition, address, uint2{__float_as_uint(first), __float_as_uint(second)});
}
inline float of_lane(float value, int lane) {
  return __uint_as_float(host::exchange<1>({__float_as_uint(value)})[static_cast<std::size_t>(lane)][0]);
}
inline unsigned turned(unsigned word) {
  const auto words = host::exchange<1>({word});
  const unsigned lane = threadIdx.x % 32, column = lane / 4;
  unsigned result = 0;
  for (unsigned e = 0; e < 2; ++e)
    result |= (words[(lane % 4 * 2 + e) * 4 + column / 2][0] >> (column % 2 * 16) & 0xFFFF) << (16 * e);
  return result;
}

inline int thread() { return static_cast<int>(threadIdx.x); }
inline unsigned block() { return blockIdx.x; }
template <class Sum, int BLOCKS>
Sum sum_of_blocks(unsigned) {
  host::fail("one block alone");
}

// To the nearest, ties to even.
inline unsigned to_tf32(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7F800000) == 0x7F800000) return bits & 0xFFFFE000;
  return (bits + 0xFFF + (bits >> 13 & 1)) & 0xFFFFE000;
}

}  // namespace ptx
}  // namespace tconv

inline std::size_t __cvta_generic_to_shared(const void* pointer) {
  return static_cast<std::size_t>(static_cast<const char*>(pointer) - tconv::host::shared_bytes());
}
inline void __syncthreads() { tconv::host::block->all.arrive_and_wait(); }
inline void __syncwarp() { tconv::host::exchange<1>({0}); }
