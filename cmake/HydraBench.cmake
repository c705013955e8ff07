# SPDX-License-Identifier: Apache-2.0
# bench/NAME.cc becomes bench_NAME, built only when it is asked for. Those that include LibTorch or a layer on it are
# there in builds with LibTorch only.
include_guard()

file(GLOB programs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/*.cc)
foreach(program IN LISTS programs)
  get_filename_component(name ${program} NAME_WE)
  file(STRINGS ${program} torch_includes LIMIT_COUNT 1 REGEX "^#include [<\"](torch|ATen|hydra/(nn|train|eval))/")
  if(torch_includes)
    set(layer train)
    set(kind torch)
  else()
    set(layer convert)
    set(kind library)
  endif()
  if(TARGET hydra_${layer})
    add_executable(bench_${name} EXCLUDE_FROM_ALL ${program})
    target_link_libraries(bench_${name} PRIVATE hydra_${layer} hydra_cli)
    hydra_common(bench_${name} ${kind})
  endif()
endforeach()
