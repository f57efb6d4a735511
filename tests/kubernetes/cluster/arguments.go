package main

import (
	"net"
	"strconv"
)

// What is in a cluster's directory, which is the working directory of all its processes.
const (
	authorityFile         = "ca.crt"
	serverCertificateFile = "server.crt"
	serverKeyFile         = "server.key"
	tokenPrivateFile      = "service-account.key"
	tokenPublicFile       = "service-account.pub"
	// By what the API server proves itself to those who extend it: an authority of its own, as kubeadm makes one.
	frontProxyAuthorityFile   = "front-proxy-ca.crt"
	frontProxyCertificateFile = "front-proxy-client.crt"
	frontProxyKeyFile         = "front-proxy-client.key"
	adminFile                 = "kubeconfig"
	controllerFile            = controllerName + ".kubeconfig"
	schedulerFile             = schedulerName + ".kubeconfig"
	// Sockets need no ports, and nobody else reaches them: the directory is its owner's. etcd wants names like a host's with a port, and
	// to the second one nobody connects.
	etcdSocket    = "etcd.sock:1"
	etcdClientURL = "unix://" + etcdSocket
	etcdPeerURL   = "unix://etcd-peer.sock:1"
)

const (
	loopback = "127.0.0.1"
	// What kubeadm gives to Services.
	serviceRange = "10.96.0.0/16"
	// The Service `kubernetes` in it.
	apiServerServiceAddress = "10.96.0.1"
	// The endpoint of that Service, which may not be on loopback: an address that is never anyone's (RFC 5737).
	apiServerEndpointAddress = "198.51.100.1"
	tokenIssuer              = "https://kubernetes.default.svc.cluster.local"
)

// serverNames and serverAddresses are what clients may call the API server by.
var (
	serverNames     = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	serverAddresses = []net.IP{net.ParseIP(loopback), net.ParseIP(apiServerServiceAddress), net.ParseIP(apiServerEndpointAddress)}
)

func etcdArguments() []string {
	return []string{
		"--data-dir=etcd",
		"--listen-client-url=" + etcdClientURL,
		"--listen-peer-url=" + etcdPeerURL,
	}
}

func apiServerArguments(port int) []string {
	return append(serving(port),
		"--etcd-servers="+etcdClientURL,
		"--advertise-address="+apiServerEndpointAddress,
		"--client-ca-file="+authorityFile,
		"--service-account-issuer="+tokenIssuer,
		"--service-account-signing-key-file="+tokenPrivateFile,
		"--service-account-key-file="+tokenPublicFile,
		"--service-cluster-ip-range="+serviceRange,
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		// Nothing forwards what is sent to Services: webhooks are called at their endpoints.
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file="+frontProxyAuthorityFile,
		"--requestheader-allowed-names="+frontProxyUser,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+frontProxyCertificateFile,
		"--proxy-client-key-file="+frontProxyKeyFile,
	)
}

func controllerArguments(port int) []string {
	return append(client(port, controllerFile),
		"--root-ca-file="+authorityFile,
		"--service-account-private-key-file="+tokenPrivateFile,
		// Each controller is a user of its own, as webhooks and audits see them in clusters.
		"--use-service-account-credentials=true",
	)
}

func schedulerArguments(port int) []string {
	return client(port, schedulerFile)
}

// client is for who has a kubeconfig. There is no other who could lead, and no one to be spared: at 20 requests in a second, the default,
// the controllers' tokens alone take as long as everything else.
func client(port int, kubeconfig string) []string {
	return append(serving(port), "--kubeconfig="+kubeconfig, "--leader-elect=false", "--kube-api-qps=1000", "--kube-api-burst=1000")
}

func serving(port int) []string {
	return []string{
		"--bind-address=" + loopback,
		"--secure-port=" + strconv.Itoa(port),
		"--tls-cert-file=" + serverCertificateFile,
		"--tls-private-key-file=" + serverKeyFile,
		"--profiling=false",
	}
}
