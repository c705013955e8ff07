# SPDX-License-Identifier: Apache-2.0
# The web page: the files of hydra/serve/page become texts in a source of hydra_serve. Run as a script (cmake -P) with
# PAGE, their folder, and OUT it writes that source. Not here: how they are put together (hydra/serve/page.cc).
set(page_files page.html page.css markdown.js xray.js page.js)

if(CMAKE_SCRIPT_MODE_FILE)
  file(WRITE ${OUT} "// The parts of the web page, as cmake/HydraPage.cmake writes them.\nnamespace hydra::serve {\n")
  foreach(file IN LISTS page_files)
    file(READ ${PAGE}/${file} text)
    string(REPLACE "." "_" name ${file})
    file(APPEND ${OUT} "extern const char* const ${name};\nconst char* const ${name} = R\"page(")
    file(APPEND ${OUT} "${text}")
    file(APPEND ${OUT} ")page\";\n")
  endforeach()
  file(APPEND ${OUT} "}  // namespace hydra::serve\n")
  return()
endif()

include_guard()
set(page_folder ${CMAKE_SOURCE_DIR}/hydra/serve/page)
set(page_source ${CMAKE_BINARY_DIR}/generated/hydra/serve/page_parts.cc)
list(TRANSFORM page_files PREPEND ${page_folder}/ OUTPUT_VARIABLE page_paths)
add_custom_command(OUTPUT ${page_source}
                   COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/generated/hydra/serve
                   COMMAND ${CMAKE_COMMAND} -DPAGE=${page_folder} -DOUT=${page_source}
                           -P ${CMAKE_CURRENT_LIST_FILE}
                   DEPENDS ${page_paths} ${CMAKE_CURRENT_LIST_FILE} VERBATIM)
target_sources(hydra_serve PRIVATE ${page_source})
set_source_files_properties(${page_source} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON SKIP_PRECOMPILE_HEADERS ON)
