// SPDX-License-Identifier: Apache-2.0
// The templates' texts.
#include "hydra/text/chat_template_own.h"

namespace hydra {
namespace {

constexpr const char* kChatml = R"({%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\n' if add_generation_prompt }})";

constexpr const char* kLlama3 = R"({{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content|trim + '<|eot_id|>' }}
{%- endfor -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt }})";

// The system message stands in the first turn of the user.
constexpr const char* kLlama2 = R"({%- set space = namespace(system='') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}
    {%- if not loop.first -%}
      {{ raise_exception('only the first message may be a system message') }}
    {%- endif -%}
    {%- set space.system = '<<SYS>>\n' + message.content + '\n<</SYS>>\n\n' -%}
  {%- elif message.role == 'user' -%}
    {{ bos_token ~ '[INST] ' ~ (space.system + message.content)|trim ~ ' [/INST]' }}
    {%- set space.system = '' -%}
  {%- elif message.role == 'assistant' -%}
    {{ ' ' ~ message.content|trim ~ ' ' ~ eos_token }}
  {%- else -%}
    {{ raise_exception('roles are system, user and assistant, not ' ~ message.role) }}
  {%- endif -%}
{%- endfor -%})";

// MiniCPM's user marker is U+7528 U+6237 in angle brackets.
constexpr const char* kMinicpm =
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "{%- if message.role == 'user' -%}\n"
    "{{ '<\xE7\x94\xA8\xE6\x88\xB7>' + message.content|trim + '<AI>' }}\n"
    "{%- else -%}\n"
    "{{ message.content|trim }}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}";

constexpr const char* kPlain = R"({{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}
    {{ message.content + '\n\n' }}
  {%- elif message.role == 'user' -%}
    {{ 'User: ' + message.content + '\n' }}
  {%- elif message.role == 'assistant' -%}
    {{ 'Assistant: ' + message.content + '\n' }}
  {%- else -%}
    {{ raise_exception('roles are system, user and assistant, not ' ~ message.role) }}
  {%- endif -%}
{%- endfor -%}
{{ 'Assistant:' if add_generation_prompt }})";

}  // namespace

const std::array<OwnTemplate, 5>& OwnTemplates() {
  static const std::array<OwnTemplate, 5> all{{
      {"chatml", {"<|im_start|>", "<|im_end|>"}, false, kChatml},
      {"llama2", {}, false, kLlama2},
      {"llama3", {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, false, kLlama3},
      {"minicpm", {"<\xE7\x94\xA8\xE6\x88\xB7>", "<AI>"}, true, kMinicpm},
      {"plain", {}, false, kPlain},
  }};
  return all;
}

}  // namespace hydra
