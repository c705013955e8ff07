# SPDX-License-Identifier: Apache-2.0
# Finds LibTorch through HYDRALM_PYTHON's torch (>= 2.7, whose C++ ABI is the new one) and gives the target
# hydra_torch. First choice: torch's own CMake package. Where that refuses (a CUDA build of torch on a machine
# without the CUDA toolkit, which is what plain pip installs): a target over torch's include and lib folders.
# Sets HYDRALM_TORCH_TEXT for people. Not here: installing torch (tools/setup.sh).
include_guard()

set(HYDRALM_TORCH_TEXT "off")
if(HYDRALM_TORCH STREQUAL "off")
  return()
endif()

# Ends the search without LibTorch: an error with HYDRALM_TORCH=on, else a line.
macro(hydra_no_torch reason)
  if(HYDRALM_TORCH STREQUAL "on")
    message(FATAL_ERROR "HYDRALM_TORCH=on: ${reason}: make setup-torch installs it")
  endif()
  message(STATUS "no LibTorch (${reason}): hydralm-train is left out")
  set(HYDRALM_TORCH_TEXT "not found")
  return()
endmacro()

if(NOT HYDRALM_PYTHON)
  hydra_no_torch("no python3")
endif()
execute_process(
  COMMAND ${HYDRALM_PYTHON} -c "import os, torch; print(torch.__version__, torch.version.cuda or 'cpu', \
os.path.dirname(torch.__file__), int(torch.compiled_with_cxx11_abi()), sep=';')"
  OUTPUT_VARIABLE torch_facts OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE torch_status)
if(NOT torch_status EQUAL 0)
  hydra_no_torch("${HYDRALM_PYTHON} cannot import torch")
endif()
list(GET torch_facts 0 torch_version)
list(GET torch_facts 1 torch_cuda)
list(GET torch_facts 2 torch_root)
list(GET torch_facts 3 torch_new_abi)
if(torch_version VERSION_LESS 2.7 OR NOT torch_new_abi)
  hydra_no_torch("torch ${torch_version} of ${HYDRALM_PYTHON} is older than 2.7")
endif()

# Without OpenMP at::parallel_for, a template of LibTorch's headers, runs on the calling thread alone.
find_package(OpenMP QUIET COMPONENTS CXX)
if(NOT OpenMP_CXX_FOUND)
  hydra_no_torch("${CMAKE_CXX_COMPILER} has no OpenMP")
endif()

# torch's package ends the configuration when it is not content, so a scratch project asks it first.
set(torch_key "${torch_root} ${torch_version}")
if(NOT HYDRALM_TORCH_PROBED STREQUAL torch_key)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -S ${CMAKE_SOURCE_DIR}/cmake/torch_probe -B ${CMAKE_BINARY_DIR}/torch_probe
            -DCMAKE_PREFIX_PATH=${torch_root}/share/cmake -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
    OUTPUT_QUIET ERROR_QUIET RESULT_VARIABLE probe_status)
  set(HYDRALM_TORCH_PROBED "${torch_key}" CACHE INTERNAL "the torch that was asked")
  set(HYDRALM_TORCH_PROBE_STATUS "${probe_status}" CACHE INTERNAL "0: its CMake package works")
endif()

add_library(hydra_torch INTERFACE)
if(HYDRALM_TORCH_PROBE_STATUS EQUAL 0)
  list(APPEND CMAKE_PREFIX_PATH ${torch_root}/share/cmake)
  set(CMAKE_MESSAGE_LOG_LEVEL_BEFORE "${CMAKE_MESSAGE_LOG_LEVEL}")
  set(CMAKE_MESSAGE_LOG_LEVEL ERROR)  # it warns of a profiler library that is not used here
  find_package(Torch REQUIRED QUIET)
  set(CMAKE_MESSAGE_LOG_LEVEL "${CMAKE_MESSAGE_LOG_LEVEL_BEFORE}")
  target_link_libraries(hydra_torch INTERFACE torch)
  target_include_directories(hydra_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  set(HYDRALM_TORCH_TEXT "${torch_version}")
else()
  foreach(name torch torch_cpu c10)
    add_library(hydra_torch_${name} SHARED IMPORTED)
    set_target_properties(hydra_torch_${name} PROPERTIES IMPORTED_LOCATION ${torch_root}/lib/lib${name}.so)
    target_link_libraries(hydra_torch INTERFACE hydra_torch_${name})
  endforeach()
  target_include_directories(hydra_torch SYSTEM INTERFACE ${torch_root}/include
                             ${torch_root}/include/torch/csrc/api/include)
  target_link_options(hydra_torch INTERFACE -Wl,--allow-shlib-undefined)
  set(HYDRALM_TORCH_TEXT "${torch_version} (its include and lib folders, CPU only)")
endif()

separate_arguments(openmp_options NATIVE_COMMAND "${OpenMP_CXX_FLAGS}")
target_compile_options(hydra_torch INTERFACE ${openmp_options})
file(GLOB openmp_runtime ${torch_root}/lib/libgomp*.so*)  # a process needs one, LibTorch's own where it brings one
target_link_libraries(hydra_torch INTERFACE ${openmp_runtime})
if(NOT openmp_runtime)
  target_link_libraries(hydra_torch INTERFACE OpenMP::OpenMP_CXX)
endif()
