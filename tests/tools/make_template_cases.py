#!/usr/bin/env python3
"""Chat-template cases with the answers of Python's jinja2, set up as HF transformers' apply_chat_template does it.

    make_template_cases.py OUT.json [--seed N] [--random N]     needs: pip install jinja2

Each case: {"template": ..., "context": {...}, "text": ...} or "error": "the message" where Python raises.
Hand-written snippets first (the shapes that Qwen, Llama, Mistral and other templates use), then whole templates
with random conversations, then random programs from a small grammar.
"""
import argparse
import json
import random

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: the body, as transformers' AssistantTracker renders it."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, w\u00f6rld! <b>\u65e5\u672c</b>"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi 'there' \"you\"",
         "tool_calls": [{"id": "a1", "type": "function",
                         "function": {"name": "f", "arguments": {"x": 1.0, "y": [None, True, "\u00e9\n\t\x01"]}}}]},
        {"role": "tool", "content": "42", "name": "f"},
        {"role": "user", "content": ""},
    ],
    "tools": [{"type": "function", "function": {
        "name": "f", "description": "d", "parameters": {"type": "object", "properties": {
            "x": {"type": "number"}, "items": {"type": "array"}}, "required": ["x"]}}}],
    "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False,
    "s": "  Hello World, hello-world (again)\n", "t": "a,b,,c", "e": "", "u": "\u00c4\u00df\u0130\ud83d\ude00 x",
    "i": 7, "j": -3, "z": 0, "f": 2.5, "g": 1e20, "h": -0.000012, "yes": True, "no": False, "nil": None,
    "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "m": [1, "x", None, 2.0, [1], {"k": "v"}], "el": [],
    "d": {"b": 1, "a": [1, 2], "C": None}, "ed": {}, "n": {"x": {"y": {"z": "deep"}}},
    "ps": [{"n": "x", "v": 2, "ok": True}, {"n": "y", "v": 1, "ok": False}, {"n": "z", "v": 3}],
}

SNIPPETS = r"""
{{ s }}|{{ s | trim }}|{{ s.strip() }}|{{ s|upper|lower }}|{{ s|title }}|{{ s.title() }}|{{ s|capitalize }}
{{ t.split(',') }}{{ t.split(',', 1) }}{{ t.rsplit(',', 1) }}{{ s.split() }}{{ s.split(none, 1) }}{{ e.split() }}{{ e.split(',') }}
{{ s.lstrip() }}|{{ s.rstrip() }}|{{ t.strip('ac') }}|{{ t.lstrip('a,') }}|{{ t.rstrip('c') }}
{{ s.startswith('  H') }}{{ s.endswith('\n') }}{{ t.startswith(('x', 'a')) }}{{ 'b' in t }}{{ 'q' not in t }}
{{ t.replace(',', '-') }}{{ t.replace(',', '', 1) }}{{ t|replace(',', ';') }}{{ 'abc'.replace('', '-') }}
{{ t.find('b') }}{{ t.find('q') }}{{ t.count(',') }}{{ 'x'.join(['a', 'b']) }}{{ u.upper() }}{{ u[0] }}{{ u[-1] }}{{ u|length }}
{{ 'abc'[::-1] }}{{ 'abcdef'[1:4] }}{{ 'abcdef'[-2:] }}{{ 'abcdef'[:-2] }}{{ 'abcdef'[::2] }}{{ 'abcdef'[4:1:-1] }}{{ l[::-1] }}{{ l[1:] }}{{ l[-1] }}
{{ i + j }} {{ i - j }} {{ i * j }} {{ i / j }} {{ i // j }} {{ i % j }} {{ i ** 2 }} {{ -i }} {{ +i }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ f }} {{ g }} {{ h }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789.125 }} {{ 1/3 }} {{ 2.0 * 3 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1e300*1e10 }}
{{ yes }} {{ no }} {{ nil }} {{ yes + 1 }} {{ yes and 'x' }} {{ no or 'y' }} {{ not yes }} {{ nil or 0 or '' or 'end' }} {{ yes == 1 }}
{{ l }} {{ w }} {{ m }} {{ d }} {{ el }} {{ ed }} {{ (1, 'a') }} {{ (1,) }} {{ () }} {{ [none, true, 1.5, "it's", 'q"q', 'b\\s', 'n\nn'] }}
{{ l|join(', ') }} {{ w|sort|join }} {{ w|sort(case_sensitive=true)|join }} {{ l|sort(reverse=true) }} {{ w|unique|list }} {{ l|sum }} {{ l|max }} {{ l|min }} {{ l|first }} {{ l|last }} {{ l|reverse|list }} {{ s|reverse }}
{{ ps|map(attribute='n')|join }} {{ ps|selectattr('ok')|list|length }} {{ ps|selectattr('v', 'gt', 1)|map(attribute='n')|list }} {{ ps|rejectattr('ok', 'defined')|list }} {{ w|map('upper')|list }} {{ m|select('string')|list }} {{ m|reject('none')|list }} {{ m|select('number')|list }}
{{ ps|sort(attribute='v')|map(attribute='n')|join }} {{ ps|sum(attribute='v') }} {{ ps|map(attribute='q', default='-')|join }} {{ ps|selectattr('n', 'equalto', 'x')|list }} {{ ps|selectattr('n', 'in', ['x', 'y'])|map(attribute='n')|list }}
{{ d|tojson }} {{ m|tojson }} {{ u|tojson }} {{ messages[2]|tojson }} {{ d|tojson(indent=2) }} {{ ed|tojson(indent=2) }} {{ d|tojson(sort_keys=true) }} {{ u|tojson(ensure_ascii=true) }} {{ d|tojson(separators=(',', ':')) }} {{ '</\x7f'|tojson }}
{{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d|items|list }} {{ d|dictsort }} {{ d|list }} {{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d['b'] }} {{ d.b }} {{ d|length }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}|{% else %}none{% endfor %}
{% for x in el %}a{% else %}empty{% endfor %}{% for x in nosuch %}a{% else %}empty{% endfor %}{% for c in 'abc' %}{{ c }}-{% endfor %}
{% for x in range(10) if x % 2 == 0 %}{{ loop.index }}:{{ x }} {% endfor %}{{ range(3)|list }}{{ range(1, 4)|list }}{{ range(5, 0, -2)|list }}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{{ x * y }},{% endfor %}{{ loop.index }};{% endfor %}
{% set x = 1 %}{% for q in l %}{% set x = x + q %}{{ x }}{% endfor %}{{ x }}{% if yes %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b='x') %}{% for q in l %}{% set ns.a = ns.a + q %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = (a, b) %}{{ c }}{% set blk %}x{{ a }}y{% endset %}{{ blk }}{% set blk2 | upper | trim %} q {% endset %}[{{ blk2 }}]
{% macro g(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ g(1) }}{{ g(1, 2) }}{{ g(1, c=3) }}{{ g() }}{{ g(b=1, a=2) }}{{ g('x') ~ 'y' }}{{ g.name }}
{% macro rec(n) %}{% if n > 0 %}{{ n }}{{ rec(n - 1) }}{% endif %}{% endmacro %}{{ rec(4) }}{% macro outer() %}{{ i }}{% endmacro %}{{ outer() }}
{% macro wrap(a) %}<{{ a }}>{{ caller() }}</{{ a }}>{% endmacro %}{% call wrap('p') %}body{{ i }}{% endcall %}{% macro each(xs) %}{% for x in xs %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(v) each(l) %}({{ v }}){% endcall %}
{% filter upper %}abc {{ i }}{% endfilter %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{% raw %}{{ not }} {% run %}{% endraw %}|{% generation %}gen{% endgeneration %}|{# comment #}|{{ '{{' }}
{{ nosuch }}|{{ nosuch is defined }}|{{ nosuch|default('d') }}|{{ nil|default('d') }}|{{ nil|default('d', true) }}|{{ e|default('x', boolean=true) }}|{{ nosuch|d(1) }}|{{ nosuch ~ 'x' }}|{{ nosuch|length }}|{{ nosuch|upper }}|{{ d.nosuch }}|{{ d.nosuch is undefined }}
{{ i is number }}{{ f is float }}{{ i is integer }}{{ yes is integer }}{{ yes is number }}{{ s is string }}{{ d is mapping }}{{ l is sequence }}{{ l is iterable }}{{ i is iterable }}{{ s is iterable }}{{ s is sequence }}{{ d is sequence }}{{ d is iterable }}{{ nil is none }}{{ yes is true }}{{ no is false }}{{ yes is boolean }}{{ i is odd }}{{ i is even }}{{ i is divisibleby 7 }}{{ i is eq 7 }}{{ i is not none }}{{ i is in [7] }}{{ 'x' is in 'xyz' }}{{ range is callable }}{{ i is sameas 7 }}{{ 'A' is upper }}{{ 'a' is lower }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}{{ l == [3, 1, 2] }}{{ d == {'b': 1, 'a': [1, 2], 'C': none} }}{{ 1 != 2 }}{{ 'a' != 'a' }}{{ 2 >= 2 }}{{ none == none }}{{ nosuch == nosuch2 }}{{ 1 in l }}{{ 'b' in d }}{{ 1 in [true] }}
{{ 'x' if yes else 'y' }}{{ 'x' if no }}{{ 'a' if no else 'b' if no else 'c' }}{{ ('x' if yes) ~ 'z' }}{{ 1 + 2 ~ 3 * 4 }}{{ 'a' ~ 1 ~ none ~ 2.0 ~ true }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ not 1 == 2 }}{{ 1 if not yes else 2 }}{{ (1, 2)[0] }}{{ {'a': 1}['a'] }}{{ {'a': 1, 'a': 2} }}{{ {1: 'x', true: 'y'} }}{{ [[1, 2], [3]][0][1] }}{{ {}.x is defined }}
{{ 'abc'|length }}{{ 'abc'|list }}{{ '%'|string }}{{ 42|string + '!' }}{{ '42'|int + 1 }}{{ '4.7'|int }}{{ 'x'|int }}{{ 'x'|int(9) }}{{ '0x1f'|int(0, 16) }}{{ 4.7|int }}{{ '1e3'|float }}{{ 'q'|float(1.5) }}{{ -3|abs }}{{ 2.5|round }}{{ 3.14159|round(2) }}{{ 2.1|round(0, 'ceil') }}{{ 7|round }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ 'x'|center(5) }}|{{ 'a b c'|wordcount }}|{{ '<a href="x">&'|e }}|{{ 'hello big world'|truncate(9) }}|{{ 'hello big world'|truncate(9, true) }}|{{ 'hello'|truncate(3) }}
{{ l|batch(2)|list }}{{ l|batch(2, 0)|list }}{{ 'abc'|first }}{{ 'abc'|last }}{{ el|first is defined }}{{ w|map('length')|list }}{{ [1, 2, 3]|map('string')|join('+') }}{{ 'AbC'.swapcase() }}{{ 'a-b'.partition('-') }}{{ 'a.b.c'.rpartition('.') }}{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3, '0') }}|{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ ' '.isspace() }}{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}{{ 'a\nb\r\nc'.splitlines() }}
{{ "esc \" \' \\ \n \t \x41 \u00e9 \101" }}{{ 'a' 'b' "c" }}{{ 1_000 }}{{ 0x10 }}{{ 0b11 }}{{ 0o17 }}{{ 1.5e3 }}{{ 'multi
line' }}
{{ messages[0].role }}{{ messages[0]['role'] }}{{ messages[-1].content == '' }}{{ messages|length }}{{ messages[1:]|length }}{{ messages[0]['nosuch'] is defined }}{{ messages|map(attribute='role')|unique|join(',') }}{{ (messages|first).role }}{{ messages[99] is defined }}{{ messages.0.role }}
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ loop_messages|length }}{{ system_message }}
{{ tools[0].function.parameters.properties.x.type }}{{ tools[0]['function']['parameters']['properties']['items'] }}{% for n, p in tools[0].function.parameters.properties.items() %}{{ n }}:{{ p.type }}{{ ', ' if not loop.last }}{% endfor %}
{{ n.x.y.z }}{{ n['x']['y']['z'] }}{{ n.q is defined and n.q.r is defined }}{{ n.x.q is defined }}
{{ [1, 2] + [3] }}{{ (1,) + (2,) }}{{ 'ab' * 3 }}{{ [0] * 3 }}{{ 2 * 'x' }}{{ 'a' * -1 }}|{{ [1, [2, [3]]] }}
{{ loop is defined }}{{ true }}{{ True }}{{ none }}{{ None }}{{ false }}{{ [] is defined }}{{ dict(a=1, b='x') }}{{ dict(d, b=5) }}
{% if false %}{% elif nil %}{% elif 'x' %}three{% else %}four{% endif %}{% if not el and not ed and not e and not z %}all false{% endif %}{% if d and l and s and i %}all true{% endif %}
{{ raise_exception('stop here') }}
{{ nosuch.x }}
{{ nosuch.x.y }}
{{ nosuch() }}
{{ nosuch + 1 }}
{{ 'a' + 1 }}
{{ 1 + none }}
{{ none < 1 }}
{{ 1 / 0 }}
{{ i.x.y }}
{{ i|nosuchfilter }}
{{ i is nosuchtest }}
{{ d|tojson|nosuch }}
{{ nosuch|tojson }}
{{ none|length }}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% set x.y = 1 %}
{{ '' | raise }}
{{ l.append(4) }}
{{ 'a' in 5 }}
{{ 1 in 'abc' }}
{{ [3, 'a']|sort }}
{{ 'abc'.index('q') }}
{{ 'a'.join([1]) }}
{% macro q(a) %}{% endmacro %}{{ q(1, 2) }}
{% macro q(a) %}{% endmacro %}{{ q(zz=2) }}
{% if %}x{% endif %}
{{ }}
{{ 1 + }}
{% for x in l %}
{% endif %}
{{ (1 }}
{{ 'unclosed }}
{% nosuchtag %}
{# unclosed
{% set %}
{{ a b }}
{{ 1 is }}
{% break %}
{{ not }}
{{ [1, 2 }}
{{ {'a' 1} }}
""".strip("\n")

WHITESPACE = [
    "  {% if yes %}  \n  a\n  {% endif %}\n b",
    "{% if yes -%}\n\n  a  \n{%- endif %}  b",
    "a  {%- if yes %}\n  b{% endif -%}  \n c",
    "  {%+ if yes %}a{% endif +%}\nb",
    "x\n  {{ i }}\n  {# c #}\ny\n   {#- d -#}  \nz",
    "\n\n{{ i }}\n", "{{ i }}\n\n", "a\r\nb\rc{{ '\r\n' }}d\n", "  {% set q = 1 %}\n\n  {% set r = 2 %}\n{{ q }}",
    "{%- for x in l -%}\n {{ x }} \n{%- endfor -%}\n end", "{% for x in l %}\n  {{ x }}\n{% endfor %}\nend",
    "a {% raw -%}  \n {{ x }} {%- endraw %} b\n", "  {% raw %}\n  q\n  {% endraw %}\nb", "\t{% if no %}x{% endif %}\n\t{% if yes %}y{% endif %}\t\nz",
    "text {% if yes %}\nline{% endif %}", "{{- i -}}  {{ j }}", "a\n{{- i -}}\nb", "{{ i }}{% if yes %} {% endif %}x", "\u00a0{%- if yes %}\u2003a{% endif %}",
    "{#\n multi\n#}\nx", "{# a #}{# b #}\n{% set x = 1 -%}\n\n y", "{% if yes %}{% endif %}\n\n\nz", "   {{ i }}", " {%if yes%}a{%endif%} ", "{{'a'}}{{\"b\"}}",
]

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

LLAMA31 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message + builtin tools #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have access to the following functions. To call a function, please respond with JSON for a function call." }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
    {{- "Do not use variables.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Custom tools are passed in a user message with some extra guidance #}
{%- if tools_in_user_message and not tools is none %}
    {#- Extract the first user message so we can plug it in here #}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {{- "Given the following functions, please respond with a JSON for a function call " }}
    {{- "with its proper arguments that best answers the given prompt.\n\n" }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
    {{- "Do not use variables.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
            {{- "<|python_tag|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- endif %}
                {%- endfor %}
            {{- ")" }}
        {%- else  %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {%- if builtin_tools is defined %}
            {#- This means we're in ipython mode #}
            {{- "<|eom_id|>" }}
        {%- else %}
            {{- "<|eot_id|>" }}
        {%- endif %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

MISTRAL = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- ', "id": "' ~ tool_call.id ~ '"}' }}
            {%- endif %}
            {{- "]" ~ eos_token if loop.last else ", " }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] in ("tool_results", "tool") %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + "}[/TOOL_RESULTS]" }}
        {%- set ns.index = ns.index + 1 %}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

SCHEMA = r"""{%- macro render_type(spec, depth=0) -%}
    {%- if spec.type == "array" -%}
        {{- "List[" }}{{ render_type(spec['items'], depth + 1) if spec['items'] else "any" }}{{ "]" -}}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- "{\n" -}}
        {%- for name, sub in spec.properties.items() -%}
            {{- '  ' * (depth + 1) }}{{ name }}{{ '' if name in (spec.required or []) else '?' }}: {{ render_type(sub, depth + 1) }}
            {%- if not loop.last %},{% endif %}{{ "\n" -}}
        {%- endfor -%}
        {{- '  ' * depth + "}" -}}
    {%- elif spec.enum is defined -%}
        {{- spec.enum | map('tojson') | join(" | ") -}}
    {%- else -%}
        {{- spec.type | default('any') | replace('integer', 'int') -}}
    {%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] -%}
// {{ tool.function.description | default('', true) | trim }}
type {{ tool.function.name }} = (_: {{ render_type(tool.function.parameters) }}) => any;
{% endfor -%}
{%- for m in messages %}
<|{{ m.role | upper }}|>{{ m.content if m.content is string else m.content | tojson }}{{ '<end>' if not loop.last else '' }}
{%- endfor %}
{{ '<|ASSISTANT|>' if add_generation_prompt }}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"""

ZEPHYR = """{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"""

WHOLE = [CHATML, LLAMA2, LLAMA3, LLAMA31, MISTRAL, SCHEMA, GEMMA, ZEPHYR]

WORDS = ["Hello", " world", "\n", "  ", "<think>", "</think>", "\u00e9t\u00e9", "\u65e5\u672c\u8a9e", "\U0001f600", "'q'", '"', "\\", "a{{b}}", "{% c %}",
         "<tool_response>", "</tool_response>", "\t", "1.5", "x" * 40, "<|im_end|>", "\u00a0", "&<>", "e\u0301"]


def random_text(r):
    return "".join(r.choice(WORDS) for _ in range(r.randint(0, 8)))


def random_json(r, depth=0):
    kind = r.randint(0, 8 if depth < 3 else 5)
    if kind == 0:
        return r.choice([True, False, None])
    if kind == 1:
        return r.randint(-1000, 1000) if r.random() < 0.9 else r.choice([2**53, 2**63 - 1, -(2**63)])
    if kind == 2:
        return r.choice([0.5, 1.0, -2.25, 1e22, 1e-7, 3.141592653589793, 100.0, 1e16])
    if kind <= 5:
        return random_text(r)
    if kind == 6:
        return [random_json(r, depth + 1) for _ in range(r.randint(0, 3))]
    return {r.choice(["a", "b", "type", "items", "name", "d\u00e9", "k k", ""]) : random_json(r, depth + 1) for _ in range(r.randint(0, 4))}


def random_schema(r, depth=0):
    kind = r.choice(["string", "integer", "number", "boolean", "array", "object"] if depth < 3 else ["string", "integer"])
    spec = {"type": kind}
    if r.random() < 0.4:
        spec["description"] = random_text(r)
    if kind == "string" and r.random() < 0.3:
        spec["enum"] = [random_text(r) for _ in range(r.randint(1, 3))]
    if kind == "array" and r.random() < 0.8:
        spec["items"] = random_schema(r, depth + 1)
    if kind == "object":
        spec["properties"] = {n: random_schema(r, depth + 1) for n in r.sample(["x", "y", "city", "unit", "q"], r.randint(0, 3))}
        spec["required"] = [n for n in spec["properties"] if r.random() < 0.5]
    return spec


def random_conversation(r):
    messages = []
    if r.random() < 0.5:
        messages.append({"role": "system", "content": random_text(r)})
    for _ in range(r.randint(0, 4)):
        messages.append({"role": "user", "content": random_text(r)})
        answer = {"role": "assistant", "content": random_text(r)}
        if r.random() < 0.4:
            answer["tool_calls"] = [{"type": "function", "id": "call_%d" % k, "function": {"name": r.choice(["f", "get_weather"]),
                                     "arguments": random_json(r) if r.random() < 0.3 else {"a": random_json(r), "b": random_text(r)}}}
                                    for k in range(r.randint(1, 2) if r.random() < 0.3 else 1)]
        if r.random() < 0.2:
            answer["reasoning_content"] = random_text(r)
        messages.append(answer)
        if "tool_calls" in answer:
            for _ in range(len(answer["tool_calls"])):
                messages.append({"role": "tool", "content": random_text(r) if r.random() < 0.8 else random_json(r)})
    if r.random() < 0.8:
        messages.append({"role": "user", "content": random_text(r)})
    context = {"messages": messages, "add_generation_prompt": r.random() < 0.7, "bos_token": "<s>", "eos_token": "</s>"}
    if r.random() < 0.4:
        context["tools"] = [{"type": "function", "function": {"name": r.choice(["f", "g"]), "description": random_text(r),
                             "parameters": dict(random_schema(r), type="object")}} for _ in range(r.randint(1, 3))]
    if r.random() < 0.5:
        context["enable_thinking"] = r.random() < 0.5
    return context


STRIPPED = ["' a'", "'\\\\n'", "'xlo'"]


class Grammar:
    """Random programs that mostly make sense: strings meet string operations, numbers meet arithmetic."""

    def __init__(self, r):
        self.r = r

    def pick(self, *options):
        return self.r.choice(options)

    def text(self, depth=0):
        if depth > 3:
            return self.pick("s", "t", "e", "u", "'x'", '"y z"', "messages[0].role")
        sub = lambda: self.text(depth + 1)
        return self.pick(
            lambda: self.pick("s", "t", "e", "u", "''", "'a\\nb'", "messages[1].content", "messages[2]['content']", "n.x.y.z"),
            lambda: f"{sub()} + {sub()}", lambda: f"{sub()} ~ {self.any(depth + 1)}", lambda: f"({sub()})",
            lambda: f"{sub()}|{self.pick('upper', 'lower', 'trim', 'title', 'capitalize', 'string', 'reverse')}",
            lambda: f"({sub()}).{self.pick('upper', 'lower', 'strip', 'lstrip', 'rstrip', 'title', 'capitalize', 'swapcase')}()",
            lambda: f"({sub()}).{self.pick('strip', 'lstrip', 'rstrip')}({self.pick(*STRIPPED)})",
            lambda: f"({sub()}).replace({self.pick(repr('a'), repr(' '), repr(''))}, {sub()})",
            lambda: f"({sub()})|replace({self.pick(repr('l'), repr(','))}, {sub()})",
            lambda: f"({sub()})[{self.slice()}]", lambda: f"({sub()}).split({self.pick('', repr(','), repr('l'))})|join({sub()})",
            lambda: f"({self.any(depth + 1)})|tojson", lambda: f"({self.any(depth + 1)})|string",
            lambda: f"({sub()} if {self.condition(depth + 1)} else {sub()})", lambda: f"({self.list(depth + 1)})|join({sub()})",
            lambda: f"({sub()})|default({sub()}, true)", lambda: f"({sub()})|indent({self.r.randint(0, 5)})", lambda: f"({sub()}) * {self.r.randint(-1, 3)}",
        )()

    def slice(self):
        n = lambda: self.pick("", str(self.r.randint(-5, 5)))
        return self.pick(lambda: f"{n()}:{n()}", lambda: f"{n()}:{n()}:{self.pick('', '-1', '2', '-2', '1')}")()

    def number(self, depth=0):
        if depth > 3:
            return self.pick("i", "j", "f", "z", "1", "2.5", "10")
        sub = lambda: self.number(depth + 1)
        return self.pick(
            lambda: self.pick("i", "j", "f", "h", "3", "0.5", "-4", "yes"),
            lambda: f"{sub()} {self.pick('+', '-', '*', '/', '//', '%')} {sub()}", lambda: f"({sub()})", lambda: f"-({sub()})",
            lambda: f"({sub()})|{self.pick('int', 'float', 'abs', 'round')}", lambda: f"({self.any(depth + 1)})|length",
            lambda: f"({self.text(depth + 1)})|int", lambda: f"({self.text(depth + 1)}).count('l')", lambda: "l|sum", lambda: "(l|max)",
        )()

    def list(self, depth=0):
        if depth > 3:
            return self.pick("l", "w", "el", "[1, 'a']")
        sub = lambda: self.list(depth + 1)
        return self.pick(
            lambda: self.pick("l", "w", "m", "el", "messages", "ps", "range(4)|list"), lambda: f"[{self.any(depth + 1)}, {self.any(depth + 1)}]",
            lambda: f"({sub()})[{self.slice()}]", lambda: f"({sub()}) + ({sub()})", lambda: f"({sub()})|reverse|list", lambda: f"({self.text(depth + 1)}).split()",
            lambda: f"({sub()})|map('string')|list", lambda: f"({sub()})|select('{self.pick('string', 'number', 'none', 'defined', 'mapping')}')|list",
            lambda: f"({sub()})|map('tojson')|list", lambda: "ps|map(attribute='n')|list", lambda: f"({self.text(depth + 1)})|list", lambda: "w|sort", lambda: "d|dictsort",
            lambda: f"({sub()})|batch({self.r.randint(1, 3)})|list", lambda: "d.items()|list", lambda: "w|unique|list",
        )()

    def condition(self, depth=0):
        if depth > 3:
            return self.pick("yes", "no", "nil", "el", "s")
        sub = lambda: self.condition(depth + 1)
        return self.pick(
            lambda: f"{sub()} {self.pick('and', 'or')} {sub()}", lambda: f"not {sub()}", lambda: f"({sub()})",
            lambda: f"({self.number(depth + 1)}) {self.pick('<', '>', '<=', '>=', '==', '!=')} ({self.number(depth + 1)})",
            lambda: f"({self.text(depth + 1)}) {self.pick('<', '==', '!=', 'in', 'not in')} ({self.text(depth + 1)})",
            lambda: f"({self.any(depth + 1)}) is {self.pick('', 'not ')}{self.pick('defined', 'none', 'string', 'number', 'mapping', 'iterable', 'sequence', 'true', 'false', 'boolean', 'integer', 'float', 'undefined')}",
            lambda: f"({self.text(depth + 1)}).{self.pick('startswith', 'endswith')}({self.text(depth + 1)})", lambda: f"({self.any(depth + 1)}) in ({self.list(depth + 1)})",
            lambda: f"({self.list(depth + 1)}) == ({self.list(depth + 1)})", lambda: f"'{self.pick('a', 'b', 'q')}' in d",
        )()

    def any(self, depth=0):
        if depth > 3:
            return self.pick("s", "i", "f", "l", "d", "nil", "yes", "nosuch")
        return self.pick(lambda: self.text(depth + 1), lambda: self.number(depth + 1), lambda: self.list(depth + 1), lambda: self.condition(depth + 1),
                         lambda: self.pick("d", "ed", "nil", "nosuch", "m[3]", "messages[0]", "{'k': i, 'q': [s]}", "(1, s)", "d.nosuch", "messages[9]", "l[1]"))()

    def tag(self, name):
        return "{%" + self.pick("", "-", "-", "+") + " " + name + " " + self.pick("", "-", "-", "+") + "%}"

    def space(self):
        return self.pick("", "", " ", "\n", "  \n ", "\n\n", "x", "\t")

    def body(self, depth=0):
        out = self.space()
        for _ in range(self.r.randint(1, 3)):
            out += self.statement(depth) + self.space()
        return out

    def statement(self, depth):
        if depth > 2 or self.r.random() < 0.45:
            return "{{" + self.pick("", "-", "") + " " + self.any(1) + " " + self.pick("", "-", "") + "}}"
        return self.pick(
            lambda: self.tag("if " + self.condition(1)) + self.body(depth + 1) + (self.tag("else") + self.body(depth + 1) if self.r.random() < 0.5 else "") + self.tag("endif"),
            lambda: self.tag("for x in " + self.list(1)) + self.body(depth + 1) + "{{ loop.index }}{{ x }}" + self.space() + self.tag("endfor"),
            lambda: self.tag("for c in l if " + self.condition(2)) + "{{ c }}" + self.tag("else") + self.body(depth + 1) + self.tag("endfor"),
            lambda: self.tag("set q = " + self.any(1)) + self.space() + "{{ q }}", lambda: self.tag("set q") + self.body(depth + 1) + self.tag("endset") + "[{{ q }}]",
            lambda: "{% set ns = namespace(v=" + self.any(2) + ") %}{% for x in l %}{% set ns.v = " + self.any(2) + " %}{% endfor %}{{ ns.v }}",
            lambda: "{% macro mm(a, b=" + self.any(2) + ") %}" + self.body(depth + 1) + "{{ a }}{{ b }}{% endmacro %}{{ mm(" + self.any(2) + ") }}",
            lambda: self.pick("{# c #}", "{#- c -#}", "\n  {# c #}\n"),
        )()


def plain(context):
    """JSON and back, so that both sides start from the same values."""
    return json.loads(json.dumps(context))


def answer(env, template, context):
    case = {"template": template, "context": context}
    try:
        text = env.from_string(template).render(**plain(context))
        text.encode("utf-8")
        case["text"] = text
    except RecursionError:
        return None
    except Exception as e:  # noqa: BLE001: any failure of the reference is "an error"
        case["error"] = "%s: %s" % (type(e).__name__, e)
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=300, help="random programs; a third as many conversations per template")
    options = parser.parse_args()
    env = environment()
    r = random.Random(options.seed)
    cases = []
    # Snippets share one context: written once.
    lines, pending = [], ""
    for line in SNIPPETS.split("\n"):
        pending += line
        if pending.count("{{") + pending.count("{%") and pending.endswith("{{ 'multi"):
            pending += "\n"
            continue
        lines.append(pending)
        pending = ""
    for template in lines + WHITESPACE:
        cases.append(answer(env, template, None or CONTEXT))
    for template in WHOLE:
        for _ in range(max(1, options.random // 12)):
            cases.append(answer(env, template, random_conversation(r)))
    for _ in range(options.random):
        cases.append(answer(env, Grammar(r).body(), CONTEXT))
    cases = [c for c in cases if c and len(c.get("text", "")) < 20000]
    templates = list(dict.fromkeys(c["template"] for c in cases))
    for c in cases:
        if c["context"] is CONTEXT:
            del c["context"]
        c["template"] = templates.index(c["template"])
    with open(options.out, "w", encoding="utf-8") as f:
        f.write('{"seed": %d, "context": %s,\n"templates": [\n%s],\n"cases": [\n%s]}\n' % (
            options.seed, json.dumps(CONTEXT), ",\n".join(json.dumps(t) for t in templates), ",\n".join(json.dumps(c) for c in cases)))
    print("%d cases, %d of them errors" % (len(cases), sum("error" in c for c in cases)))


if __name__ == "__main__":
    main()
