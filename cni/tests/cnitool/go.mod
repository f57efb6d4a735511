// A container runtime's side of CNI, as its authors have it: what conduit-cni is tested by.
module conduit.io/cnitool

go 1.24

require github.com/containernetworking/cni v1.3.0

tool github.com/containernetworking/cni/cnitool
