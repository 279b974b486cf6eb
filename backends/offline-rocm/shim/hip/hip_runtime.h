// What CubeCL's HIP C++ takes of hipRTC's header, for a clang without ROCm. The mathematics are in
// clang's own headers, which this is included after.
#pragma once

#define __launch_bounds__(units) __attribute__((amdgpu_flat_work_group_size(1, units)))
#define __align__(bytes) __attribute__((aligned(bytes)))

// hipRTC's is a structure, whose conversions are stricter than those of the compiler's own type.
typedef _Float16 __half;

struct Extent {
  unsigned x, y, z;
};

#define blockIdx                                                                                   \
  (Extent{__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),                    \
          __builtin_amdgcn_workgroup_id_z()})
#define threadIdx                                                                                  \
  (Extent{__builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y(),                      \
          __builtin_amdgcn_workitem_id_z()})
#define blockDim                                                                                   \
  (Extent{__builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_workgroup_size_y(),                \
          __builtin_amdgcn_workgroup_size_z()})
#define gridDim                                                                                    \
  (Extent{__builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(),                    \
          __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y(),                    \
          __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z()})
#define warpSize (int(__builtin_amdgcn_wavefrontsize()))

inline __device__ void __syncthreads() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

inline __device__ void __threadfence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }

// A value of another lane of the plane; of the own one where there is no such lane.
template <typename T> inline __device__ T lane_of_plane(T value, int lane, int own) {
  static_assert(sizeof(T) == 4, "lanes exchange 32 bits");
  int from = lane < 0 || lane >= warpSize ? own : lane;
  return __builtin_bit_cast(
      T, __builtin_amdgcn_ds_bpermute(from << 2, __builtin_bit_cast(int, value)));
}

inline __device__ int own_lane() {
  return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u)) % warpSize;
}

template <typename T> inline __device__ T __shfl(T value, int lane) {
  return lane_of_plane(value, lane, own_lane());
}

template <typename T> inline __device__ T __shfl_xor(T value, int mask) {
  return lane_of_plane(value, own_lane() ^ mask, own_lane());
}

template <typename T> inline __device__ T __shfl_up(T value, unsigned by) {
  return lane_of_plane(value, own_lane() - int(by), own_lane());
}

template <typename T> inline __device__ T __shfl_down(T value, unsigned by) {
  return lane_of_plane(value, own_lane() + int(by), own_lane());
}

template <typename T> inline __device__ T atomicAdd(T *place, T value) {
  return __hip_atomic_fetch_add(place, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
