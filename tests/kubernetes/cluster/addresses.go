package main

import (
	"errors"
	"net/netip"

	"k8s.io/client-go/tools/cache"
)

var (
	// Of pods, as kubeadm's users have it.
	podRange = netip.MustParsePrefix("10.244.0.0/16")
	// The node before the first. Nobody has these addresses: what is on the network of a node cannot be reached.
	nodesBegin = netip.MustParseAddr("192.168.0.0")
)

func nodeAddress(number int) netip.Addr {
	address := nodesBegin
	for range number {
		address = address.Next()
	}
	return address
}

// addresses gives every pod one of its own, and gives one that was given back only when it has come round to it.
type addresses struct {
	last  netip.Addr
	given map[netip.Addr]cache.ObjectName
	of    map[cache.ObjectName]netip.Addr
}

func newAddresses() *addresses {
	return &addresses{last: podRange.Addr(), given: map[netip.Addr]cache.ObjectName{}, of: map[cache.ObjectName]netip.Addr{}}
}

// give is the same for a pod until it is taken back.
func (a *addresses) give(pod cache.ObjectName) (netip.Addr, error) {
	if address, has := a.of[pod]; has {
		return address, nil
	}
	for address := a.last.Next(); address != a.last; address = address.Next() {
		if !podRange.Contains(address) {
			address = podRange.Addr().Next()
		}
		if _, taken := a.given[address]; !taken {
			a.last, a.given[address], a.of[pod] = address, pod, address
			return address, nil
		}
	}
	return netip.Addr{}, errors.New("there are more pods than addresses in " + podRange.String())
}

func (a *addresses) takeBack(pod cache.ObjectName) {
	delete(a.given, a.of[pod])
	delete(a.of, pod)
}
