"""NetworkPolicies, read as a cluster reads them: who may connect to whom."""

from __future__ import annotations

from typing import Any

from charts.rendering import NAMESPACE, PROFILES, Object, Workload, kind, matches, merged, objects_of, workloads

PORTS = {"database": 5432, "store": 8333, "mlflow": 5000, "label-studio": 8080, "reconciler": 8080, "serving": 8080}
STEP = {"pipelines.kubeflow.org/v2_component": "true"}
# Who connects to whom, and why the pipeline stands still without it.
NEEDED = {
    ("mlflow", "database"),  # runs and versions
    ("mlflow", "store"),  # artifacts pass through it
    ("mlflow", "reconciler"),  # a moved alias wakes it
    ("label-studio", "database"),
    ("label-studio", "store"),  # pictures pass through it
    ("reconciler", "mlflow"),  # reads the alias
    ("training", "training"),  # ranks exchange gradients; weights and what they report go by volume and log
    ("training", "mlflow"),  # each node tells how its machine does
    ("training", "store"),  # data that is read as the training goes
    ("serving", "store"),  # KServe fetches weights in its pod
    ("test", "mlflow"),
    ("test", "label-studio"),
    ("test", "store"),
}


def allows(rule: dict[str, Any], side: str, labels: dict[str, str], namespace: str, port: int) -> bool:
    """Whether a rule lets a peer and a port through; a peer outside of the cluster has no labels."""
    ports = rule.get("ports")
    if ports and not any(p["port"] == port for p in ports):
        return False
    peers = rule.get(side)
    return not peers or any(is_peer(peer, labels, namespace) for peer in peers)


def is_peer(peer: dict[str, Any], labels: dict[str, str], namespace: str) -> bool:
    """Whether a pod is one that a rule speaks of."""
    if "ipBlock" in peer:
        return not labels
    where = peer.get("namespaceSelector")
    in_namespace = namespace == NAMESPACE if where is None else selects(where, namespace)
    return in_namespace and matches(peer.get("podSelector", {}).get("matchLabels", {}), labels)


def selects(selector: dict[str, Any], namespace: str) -> bool:
    """Whether a namespace, which has its name for a label, is selected."""
    named = {"kubernetes.io/metadata.name": namespace}
    listed = all(named.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))
    return listed and matches(selector.get("matchLabels", {}), named)


def may(objects: list[Object], side: str, pod: Workload, peer: dict[str, str], namespace: str, port: int) -> bool:
    """Whether policies on a pod let a connection through; without any policy on it everything goes."""
    policies = [
        p["spec"]
        for p in kind(objects, "NetworkPolicy")
        if matches(p["spec"]["podSelector"]["matchLabels"], pod.labels)
    ]
    direction = "ingress" if side == "from" else "egress"
    assert all(direction.capitalize() in p["policyTypes"] for p in policies)
    return not policies or any(allows(r, side, peer, namespace, port) for p in policies for r in p[direction] or [])


def connected(objects: list[Object]) -> set[tuple[str, str]]:
    """Pairs of components of which the first may connect to the second's port, by both their policies."""
    pods = {w.component: w for w in workloads(objects)}
    edges = set()
    for source in pods.values():
        for target in pods.values():
            port = PORTS.get(target.component, 29500)
            out = may(objects, "to", source, dict(target.labels), NAMESPACE, port)
            if out and may(objects, "from", target, dict(source.labels), NAMESPACE, port):
                edges.add((source.component, target.component))
    return edges


def reached_by(objects: list[Object], labels: dict[str, str], namespace: str) -> set[str]:
    """Components whose port a pod that is not ours may connect to."""
    return {
        w.component
        for w in workloads(objects)
        if may(objects, "from", w, labels, namespace, PORTS.get(w.component, 29500))
    }


def test_pods_reach_what_they_need_and_nothing_else(evaluation: list[Object]) -> None:
    assert connected(evaluation) == NEEDED


def test_the_ports_are_those_that_containers_listen_on(evaluation: list[Object]) -> None:
    listening = {
        w.component: p["containerPort"] for w in workloads(evaluation) for c in w.containers for p in c.get("ports", [])
    }
    assert listening.items() <= PORTS.items()


def test_pipeline_steps_reach_the_services(evaluation: list[Object]) -> None:
    services = {"mlflow", "label-studio", "store", "serving"}
    assert reached_by(evaluation, STEP, "kubeflow") == services
    assert reached_by(evaluation, STEP, NAMESPACE) == services


def test_other_pods_reach_nothing(evaluation: list[Object], production: list[Object]) -> None:
    for objects in (evaluation, production):
        assert reached_by(objects, STEP, "default") == set()
        assert reached_by(objects, {"app": "other"}, "kubeflow") == set()
        assert reached_by(objects, {"app": "other"}, NAMESPACE) == set()
    assert reached_by(evaluation, {"app": "ingress"}, "ingress-nginx") == set()


def test_the_ingress_reaches_what_people_use(production: list[Object]) -> None:
    assert reached_by(production, {"app": "ingress"}, "ingress-nginx") == {"mlflow", "label-studio", "serving"}


def test_prometheus_reaches_the_service_alone(production: list[Object], evaluation: list[Object]) -> None:
    assert reached_by(production, {"app": "prometheus"}, "monitoring") == {"serving"}
    assert reached_by(evaluation, {"app": "prometheus"}, "monitoring") == set()


def test_every_pod_may_ask_the_cluster_for_names(objects: list[Object]) -> None:
    dns = {"k8s-app": "kube-dns"}
    for workload in workloads(objects):
        assert may(objects, "to", workload, dns, "kube-system", 53)
        assert may(objects, "to", workload, {}, "", 53)  # NodeLocal DNSCache has an address and no labels


def test_names_are_asked_where_the_cluster_answers_them() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}]
    values = {"networkPolicy": {"dns": {"peers": peers, "ports": [5353]}}}
    objects = objects_of(merged(PROFILES["evaluation"], values))
    dns = {"dns.operator.openshift.io/daemonset-dns": "default"}
    assert all(may(objects, "to", w, dns, "openshift-dns", 5353) for w in workloads(objects))
    assert not any(may(objects, "to", w, {"k8s-app": "kube-dns"}, "kube-system", 53) for w in workloads(objects))


def outward(objects: list[Object], port: int) -> set[str]:
    """Components that may connect to an address outside of the cluster on a port."""
    return {w.component for w in workloads(objects) if may(objects, "to", w, {}, "", port)}


def test_only_the_reconciler_leaves_the_evaluation(evaluation: list[Object]) -> None:
    assert outward(evaluation, 6443) == outward(evaluation, 443) == {"reconciler"}  # to the API server
    assert [port for port in (25, 80, 5432, 8333) if outward(evaluation, port)] == []


def test_servers_of_your_own_are_reached_by_those_that_use_them(production: list[Object]) -> None:
    assert outward(production, 5432) == {"mlflow", "label-studio"}
    of_the_store = {"mlflow", "label-studio", "reconciler", "serving", "training", "test"}
    assert outward(production, 443) == of_the_store
    assert outward(production, 80) == set()


def test_a_tracker_of_your_own_is_reached_on_its_port() -> None:
    base = merged(PROFILES["evaluation"], {"mlflow": {"enabled": False}})
    for url, port in {
        "https://m.example.org": 443,
        "http://m.example.org": 80,
        "http://m.example.org:5001": 5001,
    }.items():
        objects = objects_of(merged(base, {"mlflow": {"url": url}}))
        assert {"reconciler", "test"} <= outward(objects, port)


def test_a_label_studio_of_your_own_is_reached_on_its_port_by_the_test_alone() -> None:
    own = {"labelStudio": {"enabled": False, "existingSecret": "label-studio-token"}}
    base = merged(PROFILES["evaluation"], own)
    assert outward(objects_of(base), 8080) == set()
    for url, port in {
        "https://l.example.org": 443,
        "http://l.example.org": 80,
        "http://labels.example.org:8080": 8080,
    }.items():
        objects = objects_of(merged(base, {"labelStudio": {"url": url}}))
        assert outward(objects, port) - {"reconciler"} == {"test"}


def test_policies_can_be_left_to_others() -> None:
    assert (
        kind(objects_of(merged(PROFILES["evaluation"], {"networkPolicy": {"enabled": False}})), "NetworkPolicy") == []
    )
