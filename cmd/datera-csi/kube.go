package main

import (
	"errors"
	"os"

	"github.com/spf13/pflag"

	"github.com/datera-csi/datera-csi/internal/kube"
)

// kubeFlags are the flags of the commands that ask the Kubernetes API.
type kubeFlags struct {
	server         string
	serviceAccount string
}

func (f *kubeFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.server, "api-server", "", "https://HOST:PORT of the Kubernetes API (default what Kubernetes tells every container)")
	flags.StringVar(&f.serviceAccount, "service-account-dir", "/var/run/secrets/kubernetes.io/serviceaccount",
		"directory with the files token and ca.crt")
}

func (f *kubeFlags) open() (*kube.Client, error) {
	server := f.server
	if server == "" {
		server = kube.InCluster(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	}
	if server == "" {
		return nil, errors.New("--api-server: this is no pod: say where the Kubernetes API is")
	}
	return kube.New(server, f.serviceAccount)
}
