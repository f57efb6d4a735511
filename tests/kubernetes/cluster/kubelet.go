package main

import (
	"fmt"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What tests say about a pod, by annotations that may change while it runs.
const (
	// "false" keeps all its containers, and it, from being ready.
	readyAnnotation = "test.conduit.io/ready"
	// The address that it has, instead of one of its own that nobody answers at.
	addressAnnotation = "test.conduit.io/ip"
	// What its containers have ended with, for good; a proxy that is one of them has an annotation of its own, and runs without it.
	exitCodeAnnotation      = "test.conduit.io/exit-code"
	proxyExitCodeAnnotation = "test.conduit.io/proxy-exit-code"
	// Why its containers do not start, but for its proxy: a reason, a colon, and a message.
	waitingAnnotation = "test.conduit.io/waiting"

	proxyContainer = "conduit-proxy"
)

// played is the status of the pod as its node would report it once everything runs. What others have to say in a status is kept, and so
// is the time of what does not change: what has been reported once stays as it is.
func played(pod *core.Pod, host, address string, now meta.Time) (*core.PodStatus, error) {
	exit, err := exitCode(pod, exitCodeAnnotation)
	if err != nil {
		return nil, err
	}
	proxyExit, err := exitCode(pod, proxyExitCodeAnnotation)
	if err != nil {
		return nil, err
	}
	exitOf := func(container core.Container) *int32 {
		if container.Name == proxyContainer {
			return proxyExit
		}
		return exit
	}
	status := pod.Status.DeepCopy()
	if status.StartTime == nil {
		status.StartTime = &now
	}
	status.HostIP, status.HostIPs = host, []core.HostIP{{IP: host}}
	status.PodIP, status.PodIPs = address, []core.PodIP{{IP: address}}
	why, isWaiting := pod.Annotations[waitingAnnotation]
	ready := pod.Annotations[readyAnnotation] != "false" && exit == nil && !isWaiting
	status.Phase = phase(pod.Spec.Containers, exitOf)
	// Sidecars are ended when the others have.
	isOver := status.Phase != core.PodRunning

	status.InitContainerStatuses = each(pod.Spec.InitContainers, func(container core.Container) core.ContainerStatus {
		if sidecar(container) && !isOver {
			return running(pod, container, ready, *status.StartTime)
		}
		done := terminated(pod, container, 0, *status.StartTime)
		done.Ready = !sidecar(container)
		return done
	})
	status.ContainerStatuses = each(pod.Spec.Containers, func(container core.Container) core.ContainerStatus {
		if isWaiting && container.Name != proxyContainer {
			return waiting(pod, container, why)
		}
		if exitOf(container) == nil {
			return running(pod, container, ready, *status.StartTime)
		}
		return terminated(pod, container, *exitOf(container), *status.StartTime)
	})

	set(status, core.PodReadyToStartContainers, !isOver, now)
	set(status, core.PodInitialized, true, now)
	set(status, core.ContainersReady, ready, now)
	set(status, core.PodReady, ready && gatesOpen(pod), now)
	return status, nil
}

func exitCode(pod *core.Pod, annotation string) (*int32, error) {
	text, said := pod.Annotations[annotation]
	if !said {
		return nil, nil
	}
	code, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the annotation %s of %s/%s is not a number: %q", annotation, pod.Namespace, pod.Name, text)
	}
	exit := int32(code)
	return &exit, nil
}

func phase(containers []core.Container, exitOf func(core.Container) *int32) core.PodPhase {
	over := core.PodSucceeded
	for _, container := range containers {
		switch exit := exitOf(container); {
		case exit == nil:
			return core.PodRunning
		case *exit != 0:
			over = core.PodFailed
		}
	}
	return over
}

func sidecar(container core.Container) bool {
	return container.RestartPolicy != nil && *container.RestartPolicy == core.ContainerRestartPolicyAlways
}

func each(containers []core.Container, report func(core.Container) core.ContainerStatus) []core.ContainerStatus {
	var statuses []core.ContainerStatus
	for _, container := range containers {
		statuses = append(statuses, report(container))
	}
	return statuses
}

func running(pod *core.Pod, container core.Container, ready bool, begun meta.Time) core.ContainerStatus {
	status := containerStatus(pod, container)
	started := true
	status.Ready, status.Started = ready, &started
	status.State.Running = &core.ContainerStateRunning{StartedAt: begun}
	return status
}

func terminated(pod *core.Pod, container core.Container, exit int32, begun meta.Time) core.ContainerStatus {
	status := containerStatus(pod, container)
	started, reason := false, "Completed"
	if exit != 0 {
		reason = "Error"
	}
	status.Started = &started
	status.State.Terminated = &core.ContainerStateTerminated{
		ExitCode: exit, Reason: reason, StartedAt: begun, FinishedAt: begun, ContainerID: status.ContainerID,
	}
	return status
}

func waiting(pod *core.Pod, container core.Container, why string) core.ContainerStatus {
	status := containerStatus(pod, container)
	started := false
	reason, message, _ := strings.Cut(why, ":")
	status.Started = &started
	status.State.Waiting = &core.ContainerStateWaiting{Reason: reason, Message: message}
	return status
}

func containerStatus(pod *core.Pod, container core.Container) core.ContainerStatus {
	return core.ContainerStatus{
		Name:        container.Name,
		Image:       container.Image,
		ImageID:     "played://" + container.Image,
		ContainerID: fmt.Sprintf("played://%s/%s", pod.UID, container.Name),
	}
}

// gatesOpen says whether all conditions are met that others have to set for the pod to be ready.
func gatesOpen(pod *core.Pod) bool {
	for _, gate := range pod.Spec.ReadinessGates {
		if condition := find(pod.Status.Conditions, gate.ConditionType); condition == nil || condition.Status != core.ConditionTrue {
			return false
		}
	}
	return true
}

func set(status *core.PodStatus, name core.PodConditionType, met bool, now meta.Time) {
	value := core.ConditionFalse
	if met {
		value = core.ConditionTrue
	}
	condition := find(status.Conditions, name)
	if condition == nil {
		status.Conditions = append(status.Conditions, core.PodCondition{Type: name})
		condition = &status.Conditions[len(status.Conditions)-1]
	}
	if condition.Status != value {
		*condition = core.PodCondition{Type: name, Status: value, LastTransitionTime: now}
	}
}

func find(conditions []core.PodCondition, name core.PodConditionType) *core.PodCondition {
	for index := range conditions {
		if conditions[index].Type == name {
			return &conditions[index]
		}
	}
	return nil
}
