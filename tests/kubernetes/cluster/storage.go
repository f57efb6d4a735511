package main

import (
	"context"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// playStorage does what a cluster's default provisioner does, until it is cancelled: every claim gets a volume, which
// kube-controller-manager then binds to it. There is nothing on it.
func playStorage(ctx context.Context, client kubernetes.Interface) {
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims()
	changed := follow(claims.Informer())
	lister := claims.Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	changed.run(ctx, func(key cache.ObjectName) error {
		claim, err := lister.PersistentVolumeClaims(key.Namespace).Get(key.Name)
		if errors.IsNotFound(err) {
			return nil
		}
		if err != nil || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
			return err
		}
		_, err = client.CoreV1().PersistentVolumes().Create(ctx, volume(claim), meta.CreateOptions{})
		if errors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// volume is for this claim and no other.
func volume(claim *core.PersistentVolumeClaim) *core.PersistentVolume {
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: "pvc-" + string(claim.UID)},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			StorageClassName:              class,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimRetain,
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/played/" + string(claim.UID)}},
		},
	}
}
