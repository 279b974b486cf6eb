"""The evaluation harness `lm_eval` on a server of the built-in model, by token ids with echo and
log-probabilities: harness.py URL. The task and its data are made here."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

url = sys.argv[1]
assets = pathlib.Path(__file__).parents[2] / "cli/assets/glm-tiny"
sums = [(left, right) for left in range(2, 8) for right in (3, 5)]

with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    rows = [
        {
            "question": f"{left} + {right} =",
            "choices": [str(left + right), "Paris blue", "the forest of stories"],
            "answer": 0,
        }
        for left, right in sums
    ]
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    # JSON is YAML, too.
    (folder / "sums.yaml").write_text(json.dumps(task))
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hub"),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": "none",
    }
    arguments = ",".join(
        [
            "model=glm-tiny",
            f"base_url={url}/v1/completions",
            "num_concurrent=2",
            "max_retries=1",
            "tokenized_requests=True",
            "tokenizer_backend=huggingface",
            f"tokenizer={assets}",
            "max_length=512",
        ]
    )
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions"]
    command += ["--model_args", arguments, "--tasks", "sums", "--include_path", str(folder)]
    command += ["--batch_size", "4", "--output_path", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = (folder / "out").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["sums"]
    assert found["acc,none"] > 0.6, found
    print("lm_eval passes:", found)
