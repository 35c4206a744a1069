"""The pipelines as files for a cluster: strict, whole, without secrets, and able to run again from the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components, local
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from instructdiffusion.components.settings import NAMES, Settings, Training
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.pipelines.catalog import PIPELINES
from instructdiffusion.pipelines.compiling import ON_GPU, Cluster, compile_all
from instructdiffusion.pipelines.parameters import COUNTS, PRESETS, TEXTS, changed, checked
from instructdiffusion.pipelines.parameters import NAMES as KNOWN

CLUSTER = Cluster(
    image="registry.example/step@sha256:" + "0" * 64,
    gpus=1,
    tolerations=({"key": "spot", "operator": "Exists", "effect": "NoSchedule"},),
    node_selector={"disk": "fast"},
    training=Training(nodes=2, processes=4, resources={"nvidia.com/gpu": "4"}),
)
every_pipeline = pytest.mark.parametrize("name", KNOWN)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:  # a machine that holds a secret must not compile it in
        patch.setenv(NAMES["store_secret_key"], "tops3cret")
        patch.setenv(NAMES["pipelines_token"], "tops3cret")
        return compile_all(tmp_path_factory.mktemp("compiled"), CLUSTER)


def read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline, and what its pods need."""
    spec, platform = yaml.safe_load_all(file.read_text())
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def graphs(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every graph: its component, and its tasks."""
    for body in (spec["root"], *spec["components"].values()):
        if "dag" in body:
            yield body, body["dag"]["tasks"]


def problems(spec: dict[str, Any]) -> list[str]:
    """References that lead nowhere, inputs that nobody gives, circles."""
    found, every = [], spec["components"]
    for body, tasks in graphs(spec):
        own = body.get("inputDefinitions", {})
        for name, task in tasks.items():
            component = every.get(task["componentRef"]["name"])
            if component is None:
                found.append(f"{name}: no component {task['componentRef']['name']}")
                continue
            if "dag" not in component and component["executorLabel"] not in spec["deploymentSpec"]["executors"]:
                found.append(f"{name}: no executor {component['executorLabel']}")
            found += [f"{name}: no task {other}" for other in task.get("dependentTasks", ()) if other not in tasks]
            for kind in ("parameters", "artifacts"):
                given = task.get("inputs", {}).get(kind, {})
                looped = task.get("parameterIterator", {}).get("itemInput")
                needed = component.get("inputDefinitions", {}).get(kind, {})
                found += [
                    f"{name}: {i} is not given"
                    for i, t in needed.items()
                    if i not in (*given, looped) and not t.get("isOptional")
                ]
                found += [f"{name}: {i} is not an input" for i in given if i not in needed]
                for source in given.values():
                    found += [f"{name}: {problem}" for problem in missing(source, tasks, every, own, kind)]
        found += circles(tasks)
        for outputs in body["dag"].get("outputs", {}).values():
            for selectors in outputs.values():
                for one in selectors.get("artifactSelectors", []) or [selectors["valueFromParameter"]]:
                    if one["producerSubtask"] not in tasks:
                        found.append(f"output of no task {one['producerSubtask']}")
    return found


def missing(
    source: dict[str, Any], tasks: dict[str, Any], every: dict[str, Any], own: dict[str, Any], kind: str
) -> list[str]:
    """What is wrong with where an input comes from."""
    made = source.get("taskOutputArtifact") or source.get("taskOutputParameter")
    if made:
        producer = tasks.get(made["producerTask"])
        if producer is None:
            return [f"no task {made['producerTask']}"]
        key = made.get("outputArtifactKey") or made.get("outputParameterKey")
        if key not in every.get(producer["componentRef"]["name"], {}).get("outputDefinitions", {}).get(kind, {}):
            return [f"{made['producerTask']} makes no {key}"]
    outer = source.get("componentInputParameter") or source.get("componentInputArtifact")
    return [f"no input {outer}"] if outer and outer not in own.get(kind, {}) else []


def circles(tasks: dict[str, Any]) -> list[str]:
    """Tasks that wait for each other."""
    left = {name: set(task.get("dependentTasks", ())) & tasks.keys() for name, task in tasks.items()}
    while ready := [name for name, waits in left.items() if not waits]:
        left = {name: waits - {*ready} for name, waits in left.items() if name not in ready}
    return [f"{name} waits in a circle" for name in left]


@every_pipeline
def test_a_file_parses_strictly_and_every_reference_in_it_resolves(name: str, files: dict[str, Path]) -> None:
    spec, pods = read(files[name])
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    for pod in pods.values():
        json_format.ParseDict(pod, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    assert spec["pipelineInfo"]["name"] == f"instructdiffusion-{name}"
    assert pods.keys() == spec["deploymentSpec"]["executors"].keys()
    assert problems(spec) == []


def test_the_check_of_references_finds_what_is_wrong(files: dict[str, Path]) -> None:
    spec, _ = read(files["data"])
    tasks = spec["components"]["comp-data"]["dag"]["tasks"]
    tasks["encode"]["inputs"]["artifacts"]["shards"]["taskOutputArtifact"]["producerTask"] = "sieve"
    tasks["fetch"]["dependentTasks"] = ["encode"]
    del spec["components"]["comp-filter"]
    found = "; ".join(problems(spec))
    for told in ("encode: no task sieve", "filter: no component comp-filter", "fetch waits in a circle"):
        assert told in found


@every_pipeline
def test_about_ten_parameters_each_typed_described_and_with_a_range(name: str, files: dict[str, Path]) -> None:
    parameters = read(files[name])[0]["root"]["inputDefinitions"]["parameters"]
    assert 4 <= len(parameters) <= 12
    assert {"work", "port"}.isdisjoint(parameters)
    for parameter, told in parameters.items():
        assert told["description"], parameter
        assert parameter in (COUNTS if told["parameterType"] == "NUMBER_INTEGER" else TEXTS)


@every_pipeline
def test_a_parameter_that_is_one_of_a_few_words_lists_them(name: str, files: dict[str, Path]) -> None:
    parameters = read(files[name])[0]["root"]["inputDefinitions"]["parameters"]
    listed = {parameter: told["literals"] for parameter, told in parameters.items() if "literals" in told}
    assert listed.keys() == {"annotator", "leaking", "recipe"} & parameters.keys()
    for parameter, words in listed.items():
        assert parameters[parameter]["defaultValue"] in words
        assert checked({parameter: words[-1]}, {parameter: parameters[parameter]})
        assert all(word in parameters[parameter]["description"] for word in words)
        with pytest.raises(ConfigError, match=f"{parameter}=other"):
            checked({parameter: "other"}, {parameter: parameters[parameter]})


def test_the_papers_sources_are_asked_for_by_name_with_a_root_and_names_to_leave_out(files: dict[str, Path]) -> None:
    parameters = read(files["data"])[0]["root"]["inputDefinitions"]["parameters"]
    given = {"sources": "paper", "root": "s3://bucket/sets", "without": "aic, coco-stuff"}
    assert checked(given, parameters) == given
    for name in given:
        with pytest.raises(ConfigError, match="=Paper: "):
            checked({name: "Paper"}, parameters)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_defaults_and_within_its_ranges(preset: str, tmp_path: Path) -> None:
    file = compile_all(tmp_path, Cluster(), preset)["end-to-end"]
    parameters = read(file)[0]["root"]["inputDefinitions"]["parameters"]
    assert {name: parameters[name]["defaultValue"] for name in PRESETS[preset]} == PRESETS[preset]
    assert checked(PRESETS[preset], parameters) == PRESETS[preset]


@every_pipeline
def test_no_secret_is_in_a_file_but_its_name_and_key(name: str, files: dict[str, Path]) -> None:
    assert "tops3cret" not in files[name].read_text()
    for pod in read(files[name])[1].values():
        keys = {key["envVar"]: key["secretKey"] for key in pod["secretAsEnv"][0]["keyToEnv"]}
        assert keys[NAMES["store_secret_key"]] == "AWS_SECRET_ACCESS_KEY"
        assert pod["secretAsEnv"][0]["secretName"] == "instructdiffusion-store"


@every_pipeline
def test_every_pod_gets_image_settings_volume_and_retries(name: str, files: dict[str, Path]) -> None:
    spec, pods = read(files[name])
    for label, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        assert container["image"] == CLUSTER.image
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        settings = Settings.from_environment(env, needs=())
        assert settings.backend == "cluster"
        assert settings.training == CLUSTER.training
        assert container["resources"]["resourceMemoryLimit"] == "8Gi"
        assert "pip install" not in json.dumps(container)
        pod = pods[label]
        assert pod["pvcMount"][0]["mountPath"] == "/work"
        assert pod["nodeSelector"]["labels"] == {"disk": "fast"}
        on_gpu = label.startswith(tuple(f"exec-{step}" for step in ON_GPU))
        assert settings.gpus == on_gpu
        assert ("accelerator" in container["resources"]) == on_gpu
        assert [t["key"] for t in pod["tolerations"]] == ["spot", *(["nvidia.com/gpu"] if on_gpu else [])]
        named = {*NAMES.values()}
        (source,) = pod["configMapAsEnv"]
        assert {key["envVar"] for key in source["keyToEnv"]} < named - {NAMES["training"]}
    for _, tasks in graphs(spec):
        for task in tasks.values():
            one_step = "executorLabel" in spec["components"][task["componentRef"]["name"]]
            assert (task.get("retryPolicy", {}).get("maxRetryCount") == 2) == one_step


def test_a_pipeline_that_says_nothing_of_trainings_leaves_that_to_the_chart(tmp_path: Path) -> None:
    spec, pods = read(compile_all(tmp_path, Cluster())["train"])
    for label, executor in spec["deploymentSpec"]["executors"].items():
        assert NAMES["training"] not in {variable["name"] for variable in executor["container"]["env"]}
        sources = [source for source in pods[label]["configMapAsEnv"] if source.get("optional")]
        assert [key["configMapKey"] for source in sources for key in source["keyToEnv"]] == [NAMES["training"]]


@every_pipeline
def test_a_summary_is_left_whether_a_run_succeeds_or_fails(name: str, files: dict[str, Path]) -> None:
    tasks = read(files[name])[0]["root"]["dag"]["tasks"]
    assert len(tasks) == 2
    assert tasks["summarize"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_other_code_gives_other_cache_keys(files: dict[str, Path]) -> None:
    spec, _ = read(files["data"])
    sources = [executor["container"]["command"][-1] for executor in spec["deploymentSpec"]["executors"].values()]
    assert all("\n# code " in source for source in sources)


def test_what_is_compiled_is_what_the_demo_runs(files: dict[str, Path]) -> None:
    spec, _ = read(files["end-to-end"])
    ours = json_format.MessageToDict(PIPELINES["end-to-end"].pipeline_spec)
    for name, component in ours["components"].items():
        if "dag" not in component:
            assert spec["components"][name] == component
    assert spec["components"]["comp-end-to-end"]["dag"]["tasks"].keys() == ours["root"]["dag"]["tasks"].keys()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("imagee=x", "imagee is no setting"),
        ("retries=99", "retries=99: input should be less than or equal to 10"),
        ("training.nodes=0", "training.nodes=0"),
        ("training.node=2", "training.node is no setting"),
        ("image", "write it as name=value"),
        ("training={a", "training={a is no YAML; write it as in"),
        ("image=2026-13-01", "image=2026-13-01 is no YAML"),
        ("image.tag=1", "image.tag is no setting of the cluster"),
        ("image.tag.name=1", "image.tag.name is no setting of the cluster"),
    ],
)
def test_a_wrong_setting_of_the_cluster_is_one_line(setting: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(Cluster(), [setting])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@every_pipeline
def test_a_file_loads_back_as_the_whole_pipeline(name: str, files: dict[str, Path]) -> None:
    asked = read(files[name])[0]["root"]["inputDefinitions"]["parameters"]
    assert set(components.load_component_from_file(str(files[name])).component_spec.inputs) == set(asked)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_files_loaded_back_run_and_summarize_success_and_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAMES["run_id"], "run-1")
    for name in ("store_endpoint", "tracking_uri"):
        monkeypatch.delenv(NAMES[name], raising=False)
    files = compile_all(tmp_path, Cluster(mount=str(tmp_path / "work"), retries=0, backend="local"), "quick")
    pipeline, training = (components.load_component_from_file(str(files[name])) for name in ("data", "train"))
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    pipeline(triplets=10, parts=2, held_out=1, prompts=1)
    (run,) = (tmp_path / "root").iterdir()
    page = run / "summarize" / "page"
    assert "data: succeeded" in page.read_text()
    assert "encode (train)" in page.read_text()
    pages = [path.read_text() for path in (tmp_path / "root").rglob("page")]
    assert len(pages) == 11
    assert sum("data:image/webp;base64," in text for text in pages) >= 4

    monkeypatch.setenv(NAMES["run_id"], "run-2")
    with pytest.raises(RuntimeError):
        pipeline(triplets=0, held_out=1, prompts=1)
    second = max((tmp_path / "root").glob("*/summarize/page"), key=lambda path: path.stat().st_mtime)
    assert "data: failed" in second.read_text()
    assert "triplets=0: input should be greater than or equal to 1" in second.read_text()

    monkeypatch.setenv(NAMES["run_id"], "run-3")
    latents, held_out = run / "encode" / "latents", run / "synthesize" / "shards"
    training(latents=str(latents), held_out=str(held_out), train_steps=1)
    last = max((tmp_path / "root").glob("*/summarize/page"), key=lambda path: path.stat().st_mtime)
    assert "train: succeeded" in last.read_text()
