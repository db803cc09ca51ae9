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
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
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
	timeout := flag.Duration("timeout", time.Minute, "how long to wait for the driver")
	flag.Int("v", 0, "taken and ignored")
	flag.Parse()
	if *endpoint == "" {
		log.Fatal("--kubelet-registration-path is missing")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, strings.TrimPrefix(*address, "unix://"), *endpoint, *dir, *timeout); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, address, endpoint, dir string, timeout time.Duration) error {
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
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, registrar{driver: driver, endpoint: endpoint})
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	log.Printf("serving %s", socket)
	return server.Serve(listener)
}

func ask(ctx context.Context, address string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	return info.GetName(), err
}
