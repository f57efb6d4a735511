package main

import (
	"context"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// kubelet plays all nodes.
type kubelet struct {
	client    kubernetes.Interface
	hosts     map[string]string
	addresses *addresses
}

// playKubelet does what nodes do with their pods until it is cancelled.
func playKubelet(ctx context.Context, client kubernetes.Interface, nodes []*core.Node) {
	k := kubelet{client: client, hosts: map[string]string{}, addresses: newAddresses()}
	for _, node := range nodes {
		k.hosts[node.Name] = node.Status.Addresses[0].Address
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods()
	changed := follow(pods.Informer())
	lister := pods.Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	changed.run(ctx, func(key cache.ObjectName) error {
		pod, err := lister.Pods(key.Namespace).Get(key.Name)
		if errors.IsNotFound(err) {
			k.addresses.takeBack(key)
			return nil
		}
		if err != nil {
			return err
		}
		return k.sync(ctx, pod)
	})
}

// sync makes it so with one pod.
func (k *kubelet) sync(ctx context.Context, pod *core.Pod) error {
	host, ours := k.hosts[pod.Spec.NodeName]
	if !ours {
		return nil
	}
	name := cache.MetaObjectToName(pod)
	if pod.DeletionTimestamp != nil {
		k.addresses.takeBack(name)
		return k.remove(ctx, pod)
	}
	if pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed {
		k.addresses.takeBack(name)
		return nil
	}
	address, err := k.address(pod, host)
	if err != nil {
		return err
	}
	status, err := played(pod, host, address, meta.Now())
	if err != nil || equality.Semantic.DeepEqual(*status, pod.Status) {
		return err
	}
	reported := pod.DeepCopy()
	reported.Status = *status
	_, err = k.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, reported, meta.UpdateOptions{})
	return stale(err)
}

func (k *kubelet) address(pod *core.Pod, host string) (string, error) {
	if chosen, has := pod.Annotations[addressAnnotation]; has {
		return chosen, nil
	}
	if pod.Spec.HostNetwork {
		return host, nil
	}
	address, err := k.addresses.give(cache.MetaObjectToName(pod))
	return address.String(), err
}

// remove says that nothing of the pod runs any more, so that it may be forgotten; and means this one, should another have its name.
func (k *kubelet) remove(ctx context.Context, pod *core.Pod) error {
	now := int64(0)
	options := meta.DeleteOptions{GracePeriodSeconds: &now, Preconditions: meta.NewUIDPreconditions(string(pod.UID))}
	return stale(k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options))
}

// stale is no error where what was seen has changed since: the change comes as well.
func stale(err error) error {
	if errors.IsNotFound(err) || errors.IsConflict(err) {
		return nil
	}
	return err
}
