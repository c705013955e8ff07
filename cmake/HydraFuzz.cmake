# SPDX-License-Identifier: Apache-2.0
# fuzz/NAME.cc becomes fuzz_NAME, a libFuzzer program; fuzz/*_seeds.cc write their first inputs. Only with HYDRALM_FUZZ,
# which needs clang. Targets: fuzz builds all; fuzz_readers those of the four formats that `make check-slow` runs, which
# need no kernels. Not here: running them (tools/fuzz.sh).
include_guard()

file(GLOB programs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/fuzz/*.cc)
add_custom_target(fuzz)
foreach(program IN LISTS programs)
  get_filename_component(name ${program} NAME_WE)
  set(target fuzz_${name})
  if(name MATCHES "_seeds$")
    set(target ${name})
  endif()
  set(library hydra_data)
  if(name MATCHES "^(state_|torch_|pickle)")
    set(library hydra_convert)
  elseif(name MATCHES "_request$")
    set(library hydra_convert hydra_serve)
  endif()
  add_executable(${target} EXCLUDE_FROM_ALL ${program})
  target_link_libraries(${target} PRIVATE ${library})
  hydra_common(${target} library)
  if(NOT name MATCHES "_seeds$")
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  endif()
  add_dependencies(fuzz ${target})
endforeach()
add_custom_target(fuzz_readers DEPENDS fuzz_safetensors fuzz_gguf fuzz_tokenizer_file fuzz_config make_seeds)
