// One function for each PTX instruction that the kernels use.
#pragma once

namespace tconv::ptx {

// What the matrix units multiply; sums are f32.
enum class Operand { tf32, f16, bf16 };

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// --- mbarrier -----------------------------------------------------------------------------------

__device__ __forceinline__ void mbarrier_init(unsigned barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbarrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives once and announces `bytes` that a bulk copy will bring.
__device__ __forceinline__ void mbarrier_arrive_expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbarrier_wait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "wait: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra.uni done;\n"
      "bra.uni wait;\n"
      "done: }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// --- clusters -----------------------------------------------------------------------------------

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of all blocks; what they wrote before is read behind it.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// The same place in the shared memory of the block of that rank.
__device__ __forceinline__ unsigned of_block(unsigned shared, unsigned rank) {
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}
__device__ __forceinline__ void load_of_block(unsigned address, float& value) {
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address));
}
__device__ __forceinline__ void load_of_block(unsigned address, double& value) {
  asm volatile("ld.shared::cluster.f64 %0, [%1];" : "=d"(value) : "r"(address));
}
__device__ __forceinline__ void load_of_block(unsigned address, unsigned& value) {
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(address));
}
// What the BLOCKS blocks of a cluster have at one place of their shared memory, added in their order.
template <class Sum, int BLOCKS>
__device__ __forceinline__ Sum sum_of_blocks(unsigned shared) {
  Sum each[BLOCKS];
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) load_of_block(of_block(shared, block), each[block]);
  Sum sum = each[0];
#pragma unroll
  for (int block = 1; block < BLOCKS; ++block) sum += each[block];
  return sum;
}
// An mbarrier of any block of the cluster. Only reads of this thread are before it for the others: ordering its writes too
// would be a fence of the whole GPU.
__device__ __forceinline__ void mbarrier_arrive_of_block(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Sixteen bytes into the shared memory of a block, which its mbarrier counts as they arrive.
__device__ __forceinline__ void store_to_block(unsigned address, float a, float b, float c, float d, unsigned barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
               "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
               : "memory");
}
// Behind it, what other blocks sent is read.
__device__ __forceinline__ void mbarrier_wait_for_blocks(unsigned barrier, unsigned parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "wait: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
      "@p bra.uni done;\n"
      "bra.uni wait;\n"
      "done: }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// --- kernels in a row ---------------------------------------------------------------------------

// A stream's next kernel, where the host lets it start beside the end of this one, does so from here on, as soon as every
// block has been here. All that it may not do before this one's end stands behind its own wait.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// The stream's kernels before this one have ended, and what they wrote is read behind it. Each thread that touches global
// memory waits.
__device__ __forceinline__ void wait_for_kernels_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// --- bulk copies --------------------------------------------------------------------------------

// Both addresses and the size are multiples of 16 bytes.
__device__ __forceinline__ void bulk_load(unsigned shared, const void* global, unsigned bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}

// What was there. Orders what this thread did before it, and what follows it, with the others' additions.
__device__ __forceinline__ unsigned add_shared(unsigned shared, unsigned what) {
  unsigned before;
  asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], %2;" : "=r"(before) : "r"(shared), "r"(what) : "memory");
  return before;
}

// --- order --------------------------------------------------------------------------------------

// What this thread wrote to shared memory becomes visible to wgmma and bulk copies.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// The same, without waiting for the others.
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Sums that have been waited for. The compiler does not know what a wait is for: it would use them ahead of it, and wait for
// every product by itself then.
template <int COUNT>
__device__ __forceinline__ void settled(float (&sums)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i]));
}

// Registers of a thread of this warpgroup, moved between those of a block's warpgroups; a multiple of 8.
template <int BEFORE, int COUNT>
__device__ __forceinline__ void registers_change() {
  if constexpr (COUNT > BEFORE)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
  else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// A value that all lanes have, told to the compiler: what it makes of it is then computed once a warp.
__device__ __forceinline__ unsigned uniform(unsigned value) { return __reduce_max_sync(~0u, value); }

// --- shared memory ------------------------------------------------------------------------------

__device__ __forceinline__ void store_shared(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

__device__ __forceinline__ void store_shared(unsigned address, unsigned a, unsigned b) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, unsigned a) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(a) : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, unsigned short a) {
  asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(a) : "memory");
}
// In the order they are written, so that several are on their way before the first is used.
__device__ __forceinline__ void load_shared(unsigned address, unsigned& a, unsigned& b, unsigned& c, unsigned& d) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(address)
               : "memory");
}
// All of them are there before what is written behind.
__device__ __forceinline__ void together(unsigned (&words)[8]) {
  asm volatile(""
               : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3]), "+r"(words[4]), "+r"(words[5]),
                 "+r"(words[6]), "+r"(words[7]));
}

// By a predicate, for a branch around it costs more than the access. What is not loaded stays as it was.
__device__ __forceinline__ void load_if(bool condition, const void* address, unsigned short& v) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %1, 0;\n@p ld.global.b16 %0, [%2]; }"
               : "+h"(v)
               : "r"(static_cast<int>(condition)), "l"(address));
}
__device__ __forceinline__ void load_if(bool condition, const void* address, unsigned& v) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %1, 0;\n@p ld.global.b32 %0, [%2]; }"
               : "+r"(v)
               : "r"(static_cast<int>(condition)), "l"(address));
}
__device__ __forceinline__ void load_if(bool condition, const void* address, uint2& v) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %2, 0;\n@p ld.global.v2.b32 {%0, %1}, [%3]; }"
               : "+r"(v.x), "+r"(v.y)
               : "r"(static_cast<int>(condition)), "l"(address));
}
// Two neighbours, of which one may be absent: the other is then read alone.
__device__ __forceinline__ void load_pair_if(bool first, bool second, const unsigned short* address, unsigned& v) {
  unsigned low = 0, high = 0;
  asm volatile("{ .reg .pred p, q; setp.ne.s32 p, %2, 0; setp.ne.s32 q, %3, 0;\n"
               "@p ld.global.u16 %0, [%4];\n@q ld.global.u16 %1, [%4 + 2]; }"
               : "+r"(low), "+r"(high)
               : "r"(static_cast<int>(first)), "r"(static_cast<int>(second)), "l"(address));
  v = low | high << 16;
}
__device__ __forceinline__ void load_pair_if(bool first, bool second, const float* address, uint2& v) {
  load_if(first, address, v.x);
  load_if(second, address + 1, v.y);
}
__device__ __forceinline__ void store_if(bool condition, void* address, uint4 value) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0;\n"
               "@p st.global.v4.b32 [%1], {%2, %3, %4, %5}; }" ::"r"(static_cast<int>(condition)),
               "l"(address), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

__device__ __forceinline__ void store_if(bool condition, void* address, float first, float second) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0;\n"
               "@p st.global.v2.f32 [%1], {%2, %3}; }" ::"r"(static_cast<int>(condition)),
               "l"(address), "f"(first), "f"(second)
               : "memory");
}
__device__ __forceinline__ void store_if(bool condition, void* address, unsigned short value) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0;\n@p st.global.b16 [%1], %2; }" ::"r"(static_cast<int>(condition)),
               "l"(address), "h"(value)
               : "memory");
}
__device__ __forceinline__ void store_if(bool condition, void* address, float value) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0;\n@p st.global.f32 [%1], %2; }" ::"r"(static_cast<int>(condition)),
               "l"(address), "f"(value)
               : "memory");
}

__device__ __forceinline__ float of_lane(float value, int lane) { return __shfl_sync(~0u, value, lane); }

// The 8 x 8 elements of 16 bits that a warp holds, two of a row (lane/4) in each lane, turned.
__device__ __forceinline__ unsigned turned(unsigned word) {
  unsigned result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(word));
  return result;
}

// --- conversions --------------------------------------------------------------------------------

// To the nearest TF32 value, as bits; ties to even from sm_90 on, where it is one instruction, before away from zero.
__device__ __forceinline__ unsigned to_tf32(float value) {
  unsigned bits;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
  return bits;
}

// --- indices ------------------------------------------------------------------------------------

// Those of this thread and block, read anew: what depends on them stays where it is written, and takes no registers
// elsewhere.
__device__ __forceinline__ int thread() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
__device__ __forceinline__ unsigned block() {
  unsigned index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
}

}  // namespace tconv::ptx
