# SPDX-License-Identifier: Apache-2.0
# hydra_layer(), hydra_cli(): a folder of hydra/ becomes a library or a command. Sources are globbed, so that
# a new file needs no edit here; x_test.cc goes to the folder's test binary (HydraTests.cmake).
include_guard()

# Sources of a folder apart from its tests.
function(hydra_sources out folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/hydra/${folder}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

# What every target gets. Torch-free ones use Debian's fmt header-only; torch bundles another fmt.
function(hydra_common target torch)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
  target_compile_options(${target} PRIVATE ${HYDRALM_WARNINGS})
  target_compile_features(${target} PUBLIC cxx_std_20)
  if(torch)
    target_link_libraries(${target} PUBLIC hydra_torch)
    hydra_torch_pch(${target})
  else()
    target_compile_definitions(${target} PRIVATE FMT_HEADER_ONLY=1)
  endif()
endfunction()

# torch/torch.h takes 10 s to parse: it is compiled once and reused by every torch unit, whose flags are equal.
function(hydra_torch_pch target)
  if(NOT TARGET hydra_torch_pch)
    file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/torch_pch.cc CONTENT "// The unit that owns the precompiled header.\n")
    add_library(hydra_torch_pch OBJECT ${CMAKE_BINARY_DIR}/torch_pch.cc)
    target_include_directories(hydra_torch_pch PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_options(hydra_torch_pch PRIVATE ${HYDRALM_WARNINGS} -fpch-preprocess)
    target_compile_features(hydra_torch_pch PUBLIC cxx_std_20)
    target_link_libraries(hydra_torch_pch PUBLIC hydra_torch Threads::Threads)
    target_precompile_headers(hydra_torch_pch PRIVATE <torch/torch.h>)
  endif()
  target_compile_options(${target} PRIVATE -fpch-preprocess)
  target_precompile_headers(${target} REUSE_FROM hydra_torch_pch)
endfunction()

# hydra_layer(NAME [TORCH] [USES layers..] [LINK targets..]): hydra_NAME, alias hydralm::NAME.
# A folder without sources gives no target; a layer above it then simply does not link it.
function(hydra_layer name)
  cmake_parse_arguments(arg "TORCH" "" "USES;LINK" ${ARGN})
  hydra_sources(sources ${name})
  if(NOT sources OR (arg_TORCH AND NOT TARGET hydra_torch))
    return()
  endif()
  add_library(hydra_${name} STATIC ${sources})
  add_library(hydralm::${name} ALIAS hydra_${name})
  set_target_properties(hydra_${name} PROPERTIES EXPORT_NAME ${name})
  foreach(layer IN LISTS arg_USES)
    if(TARGET hydra_${layer})
      target_link_libraries(hydra_${name} PUBLIC hydra_${layer})
    endif()
  endforeach()
  target_link_libraries(hydra_${name} PUBLIC ${arg_LINK})
  hydra_common(hydra_${name} "${arg_TORCH}")
  set_property(GLOBAL APPEND PROPERTY HYDRALM_LAYERS ${name})
endfunction()

# hydra/cli: main.cc and verb_*.cc are hydralm; train_main.cc and torch_*.cc are hydralm-train (LibTorch); what
# remains is the frame that both share.
function(hydra_cli)
  hydra_sources(frame cli)
  set(commands ${frame})
  list(FILTER frame EXCLUDE REGEX "/(main|train_main|verb_[^/]*|torch_[^/]*)\\.cc$")
  if(NOT frame)
    return()
  endif()
  set(plain ${commands})
  list(FILTER plain INCLUDE REGEX "/(main|verb_[^/]*)\\.cc$")
  set(torch ${commands})
  list(FILTER torch INCLUDE REGEX "/(train_main|torch_[^/]*)\\.cc$")

  # main.cc and train_main.cc list the verbs whose files exist.
  set(verbs)
  foreach(source IN LISTS plain torch)
    if(source MATCHES "/(verb|torch)_([^/]*)\\.cc$")
      string(TOUPPER ${CMAKE_MATCH_2} verb)
      list(APPEND verbs HYDRALM_HAS_${verb})
    endif()
  endforeach()
  set_source_files_properties(${CMAKE_SOURCE_DIR}/hydra/cli/main.cc ${CMAKE_SOURCE_DIR}/hydra/cli/train_main.cc
                              PROPERTIES COMPILE_DEFINITIONS "${verbs}")

  add_library(hydra_cli STATIC ${frame})
  target_link_libraries(hydra_cli PUBLIC hydra_core CLI11::CLI11)
  hydra_common(hydra_cli FALSE)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/hydra/cli/cli.cc PROPERTIES COMPILE_DEFINITIONS
      "HYDRALM_VERSION=\"${PROJECT_VERSION}\"")

  add_executable(hydralm ${plain})
  target_link_libraries(hydralm PRIVATE hydra_cli)
  foreach(layer moa runtime serve)
    if(TARGET hydra_${layer})
      target_link_libraries(hydralm PRIVATE hydra_${layer})
    endif()
  endforeach()
  hydra_common(hydralm FALSE)

  if(TARGET hydra_torch AND TARGET hydra_nn)
    add_executable(hydralm-train ${torch})
    target_link_libraries(hydralm-train PRIVATE hydra_cli)
    foreach(layer nn train eval)
      if(TARGET hydra_${layer})
        target_link_libraries(hydralm-train PRIVATE hydra_${layer})
      endif()
    endforeach()
    hydra_common(hydralm-train TRUE)
  endif()
endfunction()
