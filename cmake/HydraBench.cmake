# SPDX-License-Identifier: Apache-2.0
# bench/NAME.cc becomes bench_NAME, built only when a script of bench/ asks for it. Needs LibTorch.
include_guard()

if(TARGET hydra_train)
  file(GLOB programs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/*.cc)
  foreach(program IN LISTS programs)
    get_filename_component(name ${program} NAME_WE)
    add_executable(bench_${name} EXCLUDE_FROM_ALL ${program})
    target_link_libraries(bench_${name} PRIVATE hydra_train)
    hydra_common(bench_${name} TRUE)
  endforeach()
endif()
