# SPDX-License-Identifier: Apache-2.0
# HYDRALM_CUDA=ON: the CUDA language through nvcc, for hydra/kernels/cuda/*.cu. Not here: LibTorch's own CUDA, which
# needs no toolkit.
include_guard()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90 CACHE STRING "GPU generations to compile for")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
find_package(CUDAToolkit REQUIRED)
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/hydra/kernels/cuda/*.cu)
if(cuda_sources)
  add_library(hydra_kernels_cuda STATIC ${cuda_sources})
  target_include_directories(hydra_kernels_cuda PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(hydra_kernels_cuda PUBLIC CUDA::cudart)
endif()
