package kubernetes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// The cluster's addresses. The API's service address is one of the host's own, so that nothing has to
// translate services; each worker has a network of pods.
const (
	serviceNet = "10.96.0.0/24"
	serviceIP  = "10.96.0.1"
	podNet     = "10.78.%d.0/24" // by the worker's number
)

// controlPlane is etcd and Kubernetes' three servers, processes of this host in the lab's network.
type controlPlane struct {
	lab      *vm.Lab
	programs string
	dir      string
	tokens   map[string]string // user to token

	mu      sync.Mutex
	running map[string]*process
}

type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func newControlPlane(lab *vm.Lab, programs string) (*controlPlane, error) {
	p := &controlPlane{
		lab: lab, programs: programs, dir: filepath.Join(lab.Dir, "plane"),
		tokens: map[string]string{}, running: map[string]*process{},
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	groups := map[string]string{
		"admin": "system:masters", "system:kube-controller-manager": "", "system:kube-scheduler": "",
		"system:node:worker-1": "system:nodes", "system:node:worker-2": "system:nodes",
	}
	var file strings.Builder
	for user, group := range groups {
		p.tokens[user] = rand.Text()
		fmt.Fprintf(&file, "%s,%s,%s,%q\n", p.tokens[user], user, user, group)
	}
	return p, errors.Join(
		os.WriteFile(p.file("tokens.csv"), []byte(file.String()), 0o600),
		p.writeKey(),
		p.writeKubeconfig("admin"), p.writeKubeconfig("system:kube-controller-manager"), p.writeKubeconfig("system:kube-scheduler"),
	)
}

func (p *controlPlane) file(name string) string { return filepath.Join(p.dir, name) }

// writeKey makes the key that signs the tokens of service accounts.
func (p *controlPlane) writeKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(p.file("service-accounts.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// kubeconfigOf is how a user reaches the API from the lab's network.
func (p *controlPlane) kubeconfigOf(user, authority string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s:443", %s}}]
users: [{name: lab, user: {token: %s}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
`, p.lab.Net.HostAddr(0), authority, p.tokens[user])
}

func (p *controlPlane) kubeconfig(user string) string {
	return p.file(strings.TrimPrefix(user, "system:") + ".kubeconfig")
}

func (p *controlPlane) writeKubeconfig(user string) error {
	content := p.kubeconfigOf(user, "certificate-authority: "+p.file("certs/apiserver.crt"))
	return os.WriteFile(p.kubeconfig(user), []byte(content), 0o600)
}

// start starts the servers and returns when the API answers and namespaces have their service account.
func (p *controlPlane) start(ctx context.Context) error {
	if err := p.route(ctx); err != nil {
		return err
	}
	host := p.lab.Net.HostAddr(0).String()
	err := errors.Join(
		p.run("etcd", "--data-dir="+p.file("etcd"), "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level=warn"),
		p.run("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--cert-dir="+p.file("certs"),
			"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+host,
			"--token-auth-file="+p.file("tokens.csv"), "--authorization-mode=Node,RBAC",
			"--service-cluster-ip-range="+serviceNet, "--allow-privileged=true",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-signing-key-file="+p.file("service-accounts.key"), "--service-account-key-file="+p.file("service-accounts.key"),
			"--kubelet-preferred-address-types=InternalIP", "--profiling=false",
			"--feature-gates=CSIVolumeHealth=true"), // and the kubelets: health in the status of pods and nodes
	)
	if err != nil {
		return err
	}
	if err = p.await(ctx, "the API to answer", "etcd", "kube-apiserver")("get", "--raw", "/readyz"); err != nil {
		return err
	}
	controllers, scheduler := p.kubeconfig("system:kube-controller-manager"), p.kubeconfig("system:kube-scheduler")
	err = errors.Join(
		// A node that says nothing for 40 s is lost, whatever the default of the day is.
		p.run("kube-controller-manager", "--kubeconfig="+controllers, "--authentication-kubeconfig="+controllers, "--authorization-kubeconfig="+controllers,
			"--service-account-private-key-file="+p.file("service-accounts.key"), "--root-ca-file="+p.file("certs/apiserver.crt"),
			"--use-service-account-credentials=true", "--leader-elect=false", "--cert-dir="+p.file("certs"), "--profiling=false",
			"--node-monitor-grace-period=40s", "--node-monitor-period=2s"),
		p.run("kube-scheduler", "--kubeconfig="+scheduler, "--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler,
			"--leader-elect=false", "--profiling=false"),
	)
	if err != nil {
		return err
	}
	return p.await(ctx, "the controllers", "kube-controller-manager", "kube-scheduler")("get", "serviceaccount", "default")
}

// route makes this host the router between nodes, pods and services.
func (p *controlPlane) route(ctx context.Context) error {
	script := fmt.Sprintf("address add %s/32 dev br0\n", serviceIP)
	ip := exec.CommandContext(ctx, "ip", "-batch", "-")
	ip.Stdin = strings.NewReader(script)
	if err := p.lab.Net.Start(ip); err != nil {
		return err
	}
	if err := ip.Wait(); err != nil {
		return fmt.Errorf("add the address of the API's service: %w", err)
	}
	return p.lab.Net.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) })
}

// run starts a server, whose output goes to a file of its own.
func (p *controlPlane) run(name string, args ...string) error {
	output, err := os.OpenFile(p.file(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close() //nolint:errcheck // the process has its own
	started := &process{cmd: exec.Command(filepath.Join(p.programs, name), args...), ended: make(chan struct{})}
	started.cmd.Dir = p.dir
	started.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the harness
	started.cmd.Stdout, started.cmd.Stderr = output, output
	if err := p.lab.Net.Start(started.cmd); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = started.cmd.Wait() // its log tells why
		close(started.ended)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[name] = started
	return nil
}

// await waits until a command of kubectl succeeds, as long as the servers live.
func (p *controlPlane) await(ctx context.Context, what string, servers ...string) func(args ...string) error {
	return func(args ...string) error {
		alive, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		return Eventually(alive, what, 2*time.Minute, func() error {
			for _, name := range servers {
				if p.ended(name) {
					log, _ := os.ReadFile(p.file(name + ".log")) // what there is of it
					cancel(fmt.Errorf("%s has ended; its log ends with:\n%s", name, tail(string(log), 2000)))
				}
			}
			_, err := p.kubectl(alive, nil, args...)
			return err
		})
	}
}

func (p *controlPlane) ended(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.running[name].ended:
		return true
	default:
		return false
	}
}

// stop ends the servers, etcd last.
func (p *controlPlane) stop() error {
	for _, name := range []string{"kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"} {
		p.mu.Lock()
		running := p.running[name]
		p.mu.Unlock()
		if running == nil {
			continue
		}
		_ = running.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		select {
		case <-running.ended:
		case <-time.After(5 * time.Second):
			_ = running.cmd.Process.Kill()
			<-running.ended
		}
	}
	return nil
}
