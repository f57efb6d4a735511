package main

import (
	"context"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Tests should see soon what follows from what they do, also when the API server has just come back: no longer than this is waited until
// something is tried again.
const (
	retryFirst = 5 * time.Millisecond
	retryLast  = time.Second
)

// queue holds the names of what has changed, each once.
type queue struct {
	workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

func follow(informer cache.SharedIndexInformer) queue {
	limits := workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](retryFirst, retryLast)
	changed := queue{workqueue.NewTypedRateLimitingQueue(limits)}
	add := func(object any) {
		if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
			changed.Add(name)
		}
	}
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, object any) { add(object) },
		DeleteFunc: add,
	})
	return changed
}

// run does one after the other, and again what has failed, until it is cancelled.
func (q queue) run(ctx context.Context, sync func(cache.ObjectName) error) {
	context.AfterFunc(ctx, q.ShutDown)
	for {
		name, ended := q.Get()
		if ended {
			return
		}
		if err := sync(name); err != nil {
			klog.ErrorS(err, "to be tried again", "name", name)
			q.AddRateLimited(name)
		} else {
			q.Forget(name)
		}
		q.Done(name)
	}
}
