# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# `hydralm generate --json-schema`: what a model of random weights writes parses and fits, over hundreds of random
# schemas, as Python's jsonschema sees it; guesses change nothing; schemas that are not supported are refused by their
# place. Not here: the grammars themselves (hydra/text/json_schema_test.cc).
import json
import os
import random
import sys
import tempfile
import unittest
from pathlib import Path

from jsonschema import Draft202012Validator

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
SCHEMAS = 60 if os.environ.get("HYDRALM_SANITIZE") else 500
WORDS = ["name", "age", "tags", "x", "a b", "caf\u00e9", "\u4e2d\u6587", "q\"uote", "back\\slash", "id", ""]


class Maker:
    """Random schemas of what is supported, each of which some value fits."""

    def __init__(self, rng):
        self.rng = rng

    def schema(self, depth=0):
        simple = [self.null, self.boolean, self.integer, self.number, self.string, self.choice]
        nested = [self.array, self.tuple, self.object, self.any_of, self.reference, self.all_of]
        return self.rng.choice(simple + (nested * 2 if depth < 3 else []))(depth + 1)

    def root(self):
        schema = self.schema()
        schema["$defs"] = {"leaf": self.rng.choice([self.integer, self.string, self.choice])(9),
                           "tree": {"type": "object", "required": ["v"], "properties": {
                               "v": {"$ref": "#/$defs/leaf"},
                               "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}}}}
        return schema

    def null(self, depth):
        return {"type": "null"}

    def boolean(self, depth):
        return {"type": "boolean"}

    def bounds(self, make, names):
        low = make()
        high = low + abs(make()) + 1
        return {key: value for key, value in zip(names, (low, high)) if self.rng.random() < 0.6}

    def integer(self, depth):
        names = self.rng.choice([("minimum", "maximum"), ("exclusiveMinimum", "maximum"),
                                 ("minimum", "exclusiveMaximum")])
        return {"type": "integer", **self.bounds(lambda: self.rng.randint(-10 ** self.rng.randint(0, 9), 2000), names)}

    def number(self, depth):
        names = self.rng.choice([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
        digits = self.rng.randint(0, 4)
        return {"type": "number", **self.bounds(lambda: round(self.rng.uniform(-100, 100), digits), names)}

    def string(self, depth):
        kind = self.rng.randrange(4)
        if kind == 0:
            return {"type": "string", "pattern": self.rng.choice(
                ["^[a-z]{1,3}$", "^\\d{3}-\\d{4}$", "^(ab|c)*x?$", "^[A-Z][a-z_]+\\d?$", "^[^\"]{1,4}$",
                 "^\\w+@\\w+$"])}
        if kind == 1:
            return {"type": "string", "format": self.rng.choice(["date", "time", "date-time", "uuid", "ipv4", "email"])}
        low = self.rng.randint(0, 5)
        high = low + self.rng.randint(0, 6)
        return {"type": "string", "maxLength": high, **({"minLength": low} if kind == 2 else {})}

    def choice(self, depth):
        values = [None, True, 0, -7, 2.5, "", "caf\u00e9 \"x\"\n", "red", "\U0001f600", [1, "a"],
                  {"k": [], "l": {"m": 1}}]
        return {"enum": self.rng.sample(values, self.rng.randint(1, 4))} if self.rng.random() < 0.8 else {
            "const": self.rng.choice(values)}

    def array(self, depth):
        low = self.rng.randint(0, 2)
        return {"type": "array", "items": self.schema(depth), "maxItems": low + self.rng.randint(0, 3), "minItems": low}

    def tuple(self, depth):
        parts = [self.schema(depth) for _ in range(self.rng.randint(1, 3))]
        more = {"items": self.schema(depth), "maxItems": 5} if self.rng.random() < 0.4 else {}
        return {"type": "array", "prefixItems": parts, "minItems": self.rng.randint(0, len(parts)), **more}

    def object(self, depth):
        names = self.rng.sample(WORDS, self.rng.randint(0, 5))
        schema = {"type": "object", "properties": {name: self.schema(depth) for name in names},
                  "required": [name for name in names if self.rng.random() < 0.5]}
        if self.rng.random() < 0.3:
            schema["additionalProperties"] = self.rng.choice([False, {"type": "boolean"}, self.string(depth)])
            schema["maxProperties"] = len(names) + 2
        elif self.rng.random() < 0.3 and names:
            schema["minProperties"] = self.rng.randint(0, len(names))
        return schema

    def any_of(self, depth):
        return {"anyOf": [self.schema(depth) for _ in range(self.rng.randint(1, 3))]}

    def reference(self, depth):
        return {"$ref": self.rng.choice(["#/$defs/leaf", "#/$defs/tree"])}

    def all_of(self, depth):
        return {"allOf": [{"type": "object", "properties": {"a": self.schema(depth)}, "required": ["a"]},
                          {"properties": {"b": self.schema(depth)}}]}


class JsonSchema(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.model = make_model(HYDRALM, f"{cls.folder}/model", "mamba2", cls.tokenizer)
        # what closes texts, lists and objects is likelier than a random model has it
        closing = [int(run(HYDRALM, "tokenizer", "encode", "-m", cls.tokenizer, input=c).stdout) for c in '"]}']
        cls.bias = [word for i in closing for word in ("--logit-bias", f"{i}=4")]

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def generate(self, schema, *flags):
        path = Path(self.folder) / "schema.json"
        path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
        return run(HYDRALM, "generate", "-m", self.model, "-p", "hello", "-q", "--json-schema", str(path), *self.bias,
                   *flags)

    def test_random_schemas(self):
        rng = random.Random(2024)
        cut, kinds = 0, set()
        for i in range(SCHEMAS):
            schema = Maker(rng).root()
            got = self.generate(schema, "-n", "3000", "--temp", "1.5", "--seed", str(i), "--json")
            self.assertEqual(got.returncode, 0, (schema, got))
            made = json.loads(got.stdout)
            if made["finish_reason"] == "length":
                cut += 1
                continue
            self.assertIn(made["finish_reason"], ("complete", "end_token"), schema)
            value = json.loads(made["text"])
            errors = [error.message for error in Draft202012Validator(schema).iter_errors(value)]
            self.assertEqual(errors, [], (schema, made["text"]))
            kinds.add(type(value).__name__)
        print(f"{SCHEMAS} schemas, {cut} texts cut off; values: {sorted(kinds)}")
        self.assertLessEqual(cut, SCHEMAS // 50)
        self.assertGreaterEqual(len(kinds), 6)

    def test_any_value_and_any_object(self):
        for schema, kind in (("{}", object), ('{"type": "object"}', dict), ('{"type": "array"}', list)):
            for seed in range(5):
                got = self.generate(schema, "-n", "3000", "--seed", str(seed))
                self.assertEqual(got.returncode, 0, got)
                self.assertIsInstance(json.loads(got.stdout), kind)

    def test_guesses_change_nothing(self):
        schema = {"type": "array", "minItems": 3, "maxItems": 6, "items": {
            "type": "object", "required": ["name", "kind"],
            "properties": {"name": {"type": "string", "maxLength": 6}, "kind": {"enum": ["aa", "ab"]}}}}
        for seed in range(4):
            plain = self.generate(schema, "-n", "2000", "--seed", str(seed))
            guessed = self.generate(schema, "-n", "2000", "--seed", str(seed), "--spec", "ngram")
            self.assertEqual((plain.returncode, guessed.returncode), (0, 0), (plain, guessed))
            self.assertEqual(plain.stdout, guessed.stdout)
            self.assertTrue(Draft202012Validator(schema).is_valid(json.loads(plain.stdout)))

    def test_a_text_that_is_cut_off_says_so(self):
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        got = self.generate(schema, "-n", "2")
        self.assertEqual(got.returncode, 0, got)
        self.assertIn("before it is complete", got.stderr)

    def test_refusals(self):
        for schema, *parts in (
                ('{"properties": {"a": {"not": {}}}}', "schema.json#/properties/a/not", "not supported"),
                ('{"type": "integer", "minimum": 2, "maximum": 1}', "schema.json#", "nothing fits"),
                ('{"type": "object"', "schema.json", "JSON"), ("[1]", "schema.json", "must be a schema")):
            got = self.generate(schema, "-n", "5")
            self.assertEqual((got.returncode, got.stdout), (2, ""), got)
            self.assertEqual(got.stderr.count("\n"), 1, got)
            for part in parts:
                self.assertIn(part, got.stderr)
        missing = run(HYDRALM, "generate", "-m", self.model, "-p", "a", "--json-schema", "/no/such/file")
        self.assertEqual(missing.returncode, 2, missing)
        self.assertIn("/no/such/file", missing.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
