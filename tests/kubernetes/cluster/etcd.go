package main

import (
	"flag"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// The default, a tenth of a second, is for members on several machines. Here nobody else can be elected, but it is waited for.
const (
	etcdTickMs     = 10
	etcdElectionMs = 100
)

// etcd serves the only member of a cluster on a socket, and returns when it has failed. It does not sync: what was written outlives
// the process, which is all that tests kill, and not the machine.
func etcd(arguments []string) error {
	flags := flag.NewFlagSet(etcdName, flag.ContinueOnError)
	data := flags.String("data-dir", "", "where everything is kept")
	client := flags.String("listen-client-url", "", "where kube-apiserver connects to")
	peer := flags.String("listen-peer-url", "", "where other members would connect to")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	clients, err := url.Parse(*client)
	if err != nil {
		return err
	}
	peers, err := url.Parse(*peer)
	if err != nil {
		return err
	}

	config := embed.NewConfig()
	config.Dir = *data
	config.UnsafeNoFsync = true
	config.TickMs, config.ElectionMs = etcdTickMs, etcdElectionMs
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clients}, []url.URL{*clients}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peers}, []url.URL{*peers}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "warn"
	// Without, every request is one that took too long.
	config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	return <-server.Err()
}
