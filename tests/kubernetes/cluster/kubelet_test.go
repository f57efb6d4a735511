package main

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	host    = "192.168.0.1"
	address = "10.244.0.1"
)

var (
	begun = meta.NewTime(time.Unix(1_000_000, 0))
	later = meta.NewTime(time.Unix(2_000_000, 0))
)

func podWith(annotations map[string]string) *core.Pod {
	always := core.ContainerRestartPolicyAlways
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: "default", Name: "web", Annotations: annotations},
		Spec: core.PodSpec{
			InitContainers: []core.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: &always}},
			Containers:     []core.Container{{Name: "main"}},
		},
	}
}

func report(t *testing.T, pod *core.Pod, now meta.Time) *core.PodStatus {
	t.Helper()
	status, err := played(pod, host, address, now)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func isTrue(status *core.PodStatus, name core.PodConditionType) bool {
	condition := find(status.Conditions, name)
	return condition != nil && condition.Status == core.ConditionTrue
}

func TestAPodRunsAndIsReady(t *testing.T) {
	status := report(t, podWith(nil), begun)
	if status.Phase != core.PodRunning || status.PodIP != address || status.HostIP != host {
		t.Errorf("%+v", status)
	}
	if !isTrue(status, core.PodReady) || !isTrue(status, core.ContainersReady) || !status.ContainerStatuses[0].Ready {
		t.Errorf("not ready: %+v", status)
	}
	if done := status.InitContainerStatuses[0]; done.State.Terminated == nil || !done.Ready {
		t.Errorf("an init container has ended: %+v", done)
	}
	if sidecar := status.InitContainerStatuses[1]; sidecar.State.Running == nil || !sidecar.Ready {
		t.Errorf("a sidecar runs on: %+v", sidecar)
	}
}

func TestWhatWasReportedStaysAsItIs(t *testing.T) {
	pod := podWith(nil)
	pod.Status = *report(t, pod, begun)
	if again := report(t, pod, later); !equality.Semantic.DeepEqual(*again, pod.Status) {
		t.Errorf("reported again: %+v", again)
	}
}

func TestATestKeepsAPodFromBeingReady(t *testing.T) {
	pod := podWith(nil)
	pod.Status = *report(t, pod, begun)
	pod.Annotations = map[string]string{readyAnnotation: "false"}
	status := report(t, pod, later)
	if isTrue(status, core.PodReady) || status.ContainerStatuses[0].Ready || status.Phase != core.PodRunning {
		t.Errorf("%+v", status)
	}
	if at := find(status.Conditions, core.PodReady).LastTransitionTime; !at.Equal(&later) {
		t.Errorf("it changes when it does: %s", at)
	}
	if at := find(status.Conditions, core.PodInitialized).LastTransitionTime; !at.Equal(&begun) {
		t.Errorf("this does not change: %s", at)
	}
}

func TestAPodIsReadyWhenItsGatesAreOpen(t *testing.T) {
	const gate = "example.com/gate"
	pod := podWith(nil)
	pod.Spec.ReadinessGates = []core.PodReadinessGate{{ConditionType: gate}}
	if status := report(t, pod, begun); isTrue(status, core.PodReady) || !isTrue(status, core.ContainersReady) {
		t.Errorf("before: %+v", status.Conditions)
	}
	pod.Status.Conditions = []core.PodCondition{{Type: gate, Status: core.ConditionTrue}}
	if status := report(t, pod, begun); !isTrue(status, core.PodReady) || !isTrue(status, gate) {
		t.Errorf("after: %+v", status.Conditions)
	}
}

func TestAPodEndsWithItsExitCode(t *testing.T) {
	for code, phase := range map[string]core.PodPhase{"0": core.PodSucceeded, "1": core.PodFailed} {
		status := report(t, podWith(map[string]string{exitCodeAnnotation: code}), begun)
		if status.Phase != phase || isTrue(status, core.PodReady) || status.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("%s: %+v", code, status)
		}
	}
	if _, err := played(podWith(map[string]string{exitCodeAnnotation: "well"}), host, address, begun); err == nil {
		t.Error("not a number, and taken for one")
	}
}
