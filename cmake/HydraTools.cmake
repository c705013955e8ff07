# SPDX-License-Identifier: Apache-2.0
# Tools around the compiler: ccache and mold when present, sanitizers, warnings, the Python interpreter.
# Not here: targets (HydraTargets.cmake).
include_guard()
include(CheckCXXCompilerFlag)
include(CheckLinkerFlag)

find_program(HYDRALM_CCACHE ccache)
if(HYDRALM_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers need the sloppiness; what the compiler says it read spares a unit that is new the preprocessor;
  # the base folder lets a second clone share the cache.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros CCACHE_DEPEND=1
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${HYDRALM_CCACHE})
endif()

find_program(HYDRALM_MOLD mold)
if(HYDRALM_MOLD)
  check_linker_flag(CXX -fuse-ld=mold HYDRALM_HAS_MOLD)
  if(HYDRALM_HAS_MOLD)
    add_link_options(-fuse-ld=mold)
  endif()
endif()

if(HYDRALM_SANITIZE)
  add_compile_options(-fsanitize=${HYDRALM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_compile_definitions(HYDRA_SANITIZED)  # what takes minutes there is smaller: SIMD levels, the read meter
  add_link_options(-fsanitize=${HYDRALM_SANITIZE})
endif()

if(HYDRALM_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    message(FATAL_ERROR "HYDRALM_FUZZ needs clang, this is ${CMAKE_CXX_COMPILER_ID}: CXX=clang++ cmake --preset fuzz")
  endif()
  # The define is the one that fuzzers agree on: checksums are then not compared (runtime/state_file.cc).
  add_compile_options(-fsanitize=fuzzer-no-link -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION=1)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()

# The interpreter: a project's own .venv first (set-up puts LibTorch there), then the one in PATH.
# A plain variable: the choice is made anew when set-up changed something.
if(NOT HYDRALM_PYTHON)
  if(EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
    set(HYDRALM_PYTHON ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  else()
    find_program(HYDRALM_PYTHON3 python3)
    if(HYDRALM_PYTHON3)
      set(HYDRALM_PYTHON ${HYDRALM_PYTHON3})
    endif()
  endif()
endif()
if(EXISTS ${CMAKE_SOURCE_DIR}/build/setup.stamp)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/build/setup.stamp)
endif()

set(HYDRALM_WARNINGS $<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
    $<$<COMPILE_LANGUAGE:CXX>:-Wpedantic>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND HYDRALM_WARNINGS $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)  # false alarms in std::string (GCC bug 105651)
endif()
