package main

import (
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Who may do everything.
const (
	adminUser  = "kubernetes-admin"
	adminGroup = "system:masters"
)

// The API server, when it hands on what others ask.
const frontProxyUser = "front-proxy-client"

// writeFiles makes all keys and certificates of a cluster whose API server is at this URL, in the working directory.
func writeFiles(server string) error {
	authority, err := newAuthority()
	if err != nil {
		return err
	}
	served, err := authority.server(serverNames, serverAddresses)
	if err != nil {
		return err
	}
	private, public, err := tokenKey()
	if err != nil {
		return err
	}
	frontProxyAuthority, err := newAuthority()
	if err != nil {
		return err
	}
	frontProxy, err := frontProxyAuthority.client(frontProxyUser)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		authorityFile:         authority.pem(),
		serverCertificateFile: served.certificate,
		serverKeyFile:         served.key,
		tokenPrivateFile:      private,
		tokenPublicFile:       public,

		frontProxyAuthorityFile:   frontProxyAuthority.pem(),
		frontProxyCertificateFile: frontProxy.certificate,
		frontProxyKeyFile:         frontProxy.key,
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
	if err := writeKubeconfig(adminFile, server, authority, adminUser, adminGroup); err != nil {
		return err
	}
	if err := writeKubeconfig(controllerFile, server, authority, "system:"+controllerName); err != nil {
		return err
	}
	return writeKubeconfig(schedulerFile, server, authority, "system:"+schedulerName)
}

// writeKubeconfig lets its reader in as the user. It holds all that is needed, and may be copied elsewhere.
func writeKubeconfig(file, server string, authority *authority, user string, groups ...string) error {
	client, err := authority.client(user, groups...)
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: authority.pem()}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: client.certificate, ClientKeyData: client.key}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: user}
	config.CurrentContext = "test"
	return clientcmd.WriteToFile(*config, file)
}
