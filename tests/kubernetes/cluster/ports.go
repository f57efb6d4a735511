package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

const (
	// Below what Linux gives to outgoing connections: in there, a client that dials a server which is stopped would in time be given its
	// port, connect to itself, and keep the server from coming back. Below NodePorts, too.
	portFirst = 16384
	portEnd   = 30000
	// Of the tries, each at a port by chance; more in a row are taken only where there are none.
	portTriesMax = 100
)

// freePorts are as many different ports of loopback where nobody listens yet.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range portTriesMax {
		port := portFirst + rand.IntN(portEnd-portFirst)
		listener, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		// Kept until all are found, so that they differ.
		defer listener.Close()
		if ports = append(ports, port); len(ports) == count {
			return ports, nil
		}
	}
	return nil, errors.New("cannot find a free port on " + loopback + ": is the network of this machine restricted?")
}
