package main

import (
	"fmt"
	"testing"

	"k8s.io/client-go/tools/cache"
)

func named(number int) cache.ObjectName {
	return cache.ObjectName{Namespace: "default", Name: fmt.Sprint(number)}
}

func TestAPodKeepsItsAddress(t *testing.T) {
	a := newAddresses()
	first, err := a.give(named(1))
	if err != nil {
		t.Fatal(err)
	}
	second, _ := a.give(named(2))
	again, _ := a.give(named(1))
	if first != again || first == second {
		t.Errorf("%s, %s, %s", first, second, again)
	}
}

func TestThereAreOnlySoManyAddresses(t *testing.T) {
	a := newAddresses()
	const all = 1<<16 - 1
	for number := range all {
		if given, err := a.give(named(number)); err != nil || !podRange.Contains(given) || given == podRange.Addr() {
			t.Fatalf("%d of %d: %s, %v", number, all, given, err)
		}
	}
	if given, err := a.give(named(all)); err == nil {
		t.Fatalf("one too many: %s", given)
	}
	back, _ := a.give(named(7))
	a.takeBack(named(7))
	if given, err := a.give(named(all)); err != nil || given != back {
		t.Errorf("%s was given back, and not %s: %v", back, given, err)
	}
}
