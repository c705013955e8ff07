# SPDX-License-Identifier: Apache-2.0
# ctest: slow timeout=900
# lm-eval, as it is installed, against `hydralm serve`: it needs the address alone, and finds the numbers of `hydralm
# eval choice`, for multiple choice, log-likelihoods of one continuation, and of whole texts. Its sets are made here.
# Usage: lm_eval_parity.py PATH_OF_HYDRALM
import importlib.util
import json
import math
import os
import sys
import tempfile
import unittest
from pathlib import Path

for package in ("lm_eval", "aiohttp", "tenacity", "requests"):
    if importlib.util.find_spec(package) is None:
        print(f"skipped: the Python package {package} is not installed")
        sys.exit(77)

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from serving import Serving  # noqa: E402
from tiny_models import make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
NEAR = 2e-3  # nats of a text: sums of rounded f32
TASKS = {
    "choices": {"output_type": "multiple_choice", "doc_to_text": "context", "doc_to_choice": "choices",
                "doc_to_target": "answer", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "continuations": {"output_type": "loglikelihood", "doc_to_text": "context",
                      "doc_to_target": "{{' ' + choices[answer]}}",
                      "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
    "texts": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "context",
              "metric_list": [{"metric": "byte_perplexity"}]},
}


def questions():
    """The next words of a text, and others."""
    words = make_text(21, 900).split()
    other = lambda i: next(word for word in words[i + 21:] if word != words[i + 20])  # noqa: E731
    return [{"context": " ".join(words[i:i + 20]), "choices": [words[i + 20], other(i), " ".join(words[i:i + 3])],
             "answer": i % 2} for i in range(0, 600, 15)]


class LmEval(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        folder = Path(cls.temporary.name)
        # Its libraries look for caches and for the network when they are first imported.
        os.environ.update({"HF_HOME": str(folder / "cache"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1",
                           "TOKENIZERS_PARALLELISM": "false"})
        cls.questions = questions()
        cls.file = folder / "questions.jsonl"
        cls.file.write_text("".join(json.dumps(question) + "\n" for question in cls.questions))
        cls.tasks = folder / "tasks"
        cls.tasks.mkdir()
        for name, task in TASKS.items():  # JSON is YAML
            whole = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(cls.file)}},
                     "test_split": "test", **task}
            (cls.tasks / f"{name}.yaml").write_text(json.dumps(whole))
        tokenizer = make_tokenizer(HYDRALM, folder)
        cls.models = {family: make_model(HYDRALM, folder / family, family, tokenizer)
                      for family in ("hydra", "llama", "mamba2")}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def lm_eval(self, url):
        """Results by task, and the log-likelihoods of each request in the order of the questions."""
        import lm_eval  # after the variables above  # pylint: disable=import-outside-toplevel
        from lm_eval.tasks import TaskManager  # pylint: disable=import-outside-toplevel
        manager = TaskManager(include_path=str(self.tasks), include_defaults=False)
        model = {"model": json.loads(self.served.ask("GET", "/v1/models")[2])["data"][0]["id"],
                 "base_url": url + "v1/completions", "num_concurrent": 3}
        made = lm_eval.simple_evaluate("local-completions", model_args=model, tasks=list(TASKS), task_manager=manager,
                                       log_samples=True, bootstrap_iters=0)
        samples = {name: sorted(made["samples"][name], key=lambda sample: sample["doc_id"]) for name in TASKS}
        return made["results"], {name: [sample["filtered_resps"] for sample in samples[name]] for name in TASKS}

    def choices(self, family, asked):
        """What `hydralm eval choice` says of questions."""
        path = Path(self.temporary.name) / "asked.jsonl"
        path.write_text("".join(json.dumps(question) + "\n" for question in asked))
        done = run(HYDRALM, "eval", "choice", str(path), "-m", self.models[family], "--json")
        self.assertEqual(done.returncode, 0, done)
        return json.loads(done.stdout)["plans"][0]

    def test_it_finds_the_numbers_of_eval(self):
        for family, model in self.models.items():
            with self.subTest(family=family), Serving(HYDRALM, model) as self.served:
                results, resps = self.lm_eval(self.served.url)
                made = self.choices(family, self.questions)
                for question, got in zip(made["questions"], resps["choices"]):
                    for logprob, greedy, (found, is_greedy) in zip(question["logprobs"], question["greedy"], got):
                        self.assertAlmostEqual(found, logprob, delta=NEAR)
                        self.assertEqual(is_greedy, greedy)
                for name in ("acc", "acc_norm"):
                    self.assertAlmostEqual(results["choices"][f"{name},none"], made[name])
                self.assertGreater(made["acc"], 0)
                # The right choice alone.
                right = [question["answer"] for question in self.questions]
                nats = [-question["logprobs"][i] for question, i in zip(made["questions"], right)]
                self.assertAlmostEqual(math.log(results["continuations"]["perplexity,none"]), sum(nats) / len(nats),
                                       delta=NEAR)
                greedy = [question["greedy"][i] for question, i in zip(made["questions"], right)]
                self.assertAlmostEqual(results["continuations"]["acc,none"], sum(greedy) / len(greedy))
                # The contexts as texts of their own, from bos on.
                texts = [{"context": "", "delimiter": "", "choices": [question["context"], "x"], "answer": 0}
                         for question in self.questions]
                nats = [-question["logprobs"][0] for question in self.choices(family, texts)["questions"]]
                size = sum(len(question["context"]) for question in self.questions)
                self.assertAlmostEqual(math.log(results["texts"]["byte_perplexity,none"]), sum(nats) / size, delta=NEAR)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
