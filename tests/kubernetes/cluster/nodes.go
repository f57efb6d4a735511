package main

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"
)

const (
	// Nodes are in so many zones, one after the other.
	zones = 3
	// A node that says nothing for longer than 50 s is taken for dead.
	nodeReportInterval = 5 * time.Second
	// More than any test asks for: what does not fit is not what is tested.
	nodeCPU    = "64"
	nodeMemory = "256Gi"
	nodePods   = "10000"
)

// newNodes are node-1, node-2 and so on, in zone-1, zone-2, zone-3, zone-1 and so on.
func newNodes(count int) []*core.Node {
	nodes := make([]*core.Node, count)
	for index := range nodes {
		nodes[index] = newNode(index+1, fmt.Sprintf("zone-%d", index%zones+1))
	}
	return nodes
}

func newNode(number int, zone string) *core.Node {
	name := fmt.Sprintf("node-%d", number)
	capacity := core.ResourceList{
		core.ResourceCPU:    resource.MustParse(nodeCPU),
		core.ResourceMemory: resource.MustParse(nodeMemory),
		core.ResourcePods:   resource.MustParse(nodePods),
	}
	return &core.Node{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{
			core.LabelHostname:       name,
			core.LabelOSStable:       "linux",
			core.LabelArchStable:     "amd64",
			core.LabelTopologyRegion: "region",
			core.LabelTopologyZone:   zone,
		}},
		Status: core.NodeStatus{
			Capacity:    capacity,
			Allocatable: capacity,
			Conditions:  nodeConditions(),
			Addresses: []core.NodeAddress{
				{Type: core.NodeInternalIP, Address: nodeAddress(number).String()},
				{Type: core.NodeHostName, Address: name},
			},
			NodeInfo: core.NodeSystemInfo{
				KubeletVersion:          version.Get().GitVersion,
				OperatingSystem:         "linux",
				Architecture:            "amd64",
				OSImage:                 "played",
				ContainerRuntimeVersion: "played://1",
			},
		},
	}
}

func nodeConditions() []core.NodeCondition {
	now := meta.Now()
	condition := func(name core.NodeConditionType, status core.ConditionStatus, reason string) core.NodeCondition {
		return core.NodeCondition{Type: name, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	return []core.NodeCondition{
		condition(core.NodeMemoryPressure, core.ConditionFalse, "KubeletHasSufficientMemory"),
		condition(core.NodeDiskPressure, core.ConditionFalse, "KubeletHasNoDiskPressure"),
		condition(core.NodePIDPressure, core.ConditionFalse, "KubeletHasSufficientPID"),
		condition(core.NodeReady, core.ConditionTrue, "KubeletReady"),
	}
}

// createNode makes the node with its status.
func createNode(client kubernetes.Interface, node *core.Node) error {
	_, err := client.CoreV1().Nodes().Create(context.Background(), node, meta.CreateOptions{})
	return err
}

// keepReady reports the nodes' conditions until it is cancelled: without, they would be found dead, and after a while without an API server
// they are.
func keepReady(ctx context.Context, client kubernetes.Interface, nodes []*core.Node) {
	for every := time.NewTicker(nodeReportInterval); ; {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		for _, node := range nodes {
			if err := reportReady(ctx, client, node.Name); err != nil {
				klog.ErrorS(err, "cannot report a node's status, and try again", "node", node.Name, "in", nodeReportInterval)
			}
		}
	}
}

func reportReady(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return err
	}
	node.Status.Conditions = nodeConditions()
	_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, meta.UpdateOptions{})
	return err
}
