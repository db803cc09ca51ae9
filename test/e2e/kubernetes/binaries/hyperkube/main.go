// Command hyperkube is the servers of Kubernetes in one binary, which links in a third of the time and a
// quarter of the space of five: the name that it is called by says which of them it is.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of the clients
	_ "k8s.io/component-base/metrics/prometheus/version"  // build information as a metric
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	programs := map[string]func() int{
		"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
		"kube-controller-manager": func() int { return cli.Run(controllers.NewControllerManagerCommand()) },
		"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
		// It sets its signal handler itself, and to do that twice is a panic.
		"kubelet": func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
		"etcd":    func() int { etcdmain.Main(os.Args); return 0 },
	}
	name := filepath.Base(os.Args[0])
	run, ok := programs[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "hyperkube: link it to the name of a program of Kubernetes; %q is none\n", name)
		os.Exit(2)
	}
	os.Exit(run())
}
