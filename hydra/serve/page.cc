// SPDX-License-Identifier: Apache-2.0
// The parts of the page put together, and the hashes of those that a browser runs.
#include "hydra/serve/page.h"

#include <openssl/evp.h>

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra::serve {

// In the source that cmake/HydraPage.cmake writes.
extern const char* const page_html;
extern const char* const page_css;
extern const char* const markdown_js;
extern const char* const xray_js;
extern const char* const page_js;

namespace {

const std::string& Style() {
  static const std::string style = page_css;
  return style;
}

const std::string& Script() {
  static const std::string script = std::string(markdown_js) + xray_js + page_js;
  return script;
}

std::string With(std::string text, const std::string& place, const std::string& part) {
  const size_t at = text.find(place);
  HYDRA_CHECK(at != std::string::npos, place);
  return text.replace(at, place.size(), part);
}

// 'sha256-...', as policies name a text.
std::string SourceHash(const std::string& text) {
  const Sha256Digest digest = Sha256::Of(text);
  constexpr size_t kBase64 = 44;  // characters of 32 bytes
  unsigned char base64[kBase64 + 1] = {};
  ::EVP_EncodeBlock(base64, digest.data(), static_cast<int>(digest.size()));
  return "'sha256-" + std::string(reinterpret_cast<const char*>(base64)) + "'";
}

}  // namespace

const std::string& PageText() {
  static const std::string page = With(With(page_html, "/*CSS*/", Style()), "/*JS*/", Script());
  return page;
}

const std::string& PagePolicy() {
  static const std::string policy = "default-src 'none'; script-src " + SourceHash(Script()) + "; style-src " +
                                    SourceHash(Style()) +
                                    "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                                    "frame-ancestors 'none'";
  return policy;
}

}  // namespace hydra::serve
