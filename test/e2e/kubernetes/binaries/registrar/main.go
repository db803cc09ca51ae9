// Command registrar introduces a CSI driver to the kubelet. It stands in for the node-driver-registrar,
// which cannot be built from a Go proxy, and takes the flags of it that manifests use; it does the same: ask
// the driver's name, and answer the kubelet that watches its plugin directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type registrar struct {
	registration.UnimplementedRegistrationServer
	driver, endpoint string
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: r.driver, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus hears how it went. A refusal ends the process, as the original does, so that its
// restart is another try.
func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.GetPluginRegistered() {
		log.Fatalf("the kubelet refuses %s: %s", r.driver, s.GetError())
	}
	log.Printf("the kubelet has registered %s", r.driver)
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	address := flag.String("csi-address", "/run/csi/socket", "socket of the driver, as seen here")
	endpoint := flag.String("kubelet-registration-path", "", "socket of the driver, as the kubelet sees it")
	dir := flag.String("plugin-registration-path", "/registration", "where the kubelet looks for plugins")
	timeout := flag.Duration("timeout", time.Second, "how long a call of the driver may take")
	health := flag.String("http-endpoint", "", "address that serves /healthz; none without")
	flag.Int("v", 0, "taken and ignored")
	flag.Parse()
	if *endpoint == "" {
		log.Fatal("--kubelet-registration-path is missing")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, strings.TrimPrefix(*address, "unix://"), *endpoint, *dir, *health, *timeout); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, address, endpoint, dir, health string, timeout time.Duration) error {
	driver, err := ask(ctx, address, timeout)
	if err != nil {
		return fmt.Errorf("ask the driver at %s for its name: %w", address, err)
	}
	socket := filepath.Join(dir, driver+"-reg.sock")
	if err = os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if health != "" {
		go func() { log.Fatal(http.ListenAndServe(health, healthz(socket))) }()
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, registrar{driver: driver, endpoint: endpoint})
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	log.Printf("serving %s", socket)
	return server.Serve(listener)
}

// healthz says whether the kubelet can find the socket.
func healthz(socket string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if info, err := os.Stat(socket); err != nil || info.Mode()&fs.ModeSocket == 0 {
			http.Error(w, socket+" is not there", http.StatusInternalServerError)
		}
	})
	return mux
}

// ask waits for the driver's socket for as long as it takes; the call has timeout.
func ask(ctx context.Context, address string, timeout time.Duration) (string, error) {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return "", ctx.Err()
		}
		conn.Connect()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	return info.GetName(), err
}
