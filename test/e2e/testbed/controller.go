package testbed

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Controller is `datera-csi controller` beside the guests, and the client of its services.
type Controller struct {
	csi.ControllerClient
	csi.IdentityClient

	cmd   *exec.Cmd
	conn  *grpc.ClientConn
	ended chan struct{}
	log   string
}

// startController starts the plugin inside the guests' network: it reaches the array as they do.
func (b *Bed) startController(ctx context.Context) (*Controller, error) {
	socket := filepath.Join(b.VM.Dir, "csi.sock")
	c := &Controller{log: filepath.Join(b.VM.Dir, "controller.log"), ended: make(chan struct{})}
	output, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer output.Close() //nolint:errcheck // the process has its own
	c.cmd = exec.Command(filepath.Join(b.bin, "datera-csi"), "controller",
		"--endpoint=unix://"+socket, "--backends-dir="+b.Array.Backends, "-v=4")
	c.cmd.Stdout, c.cmd.Stderr = output, output
	if err = b.VM.Net.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("start the controller: %w", err)
	}
	go func() {
		_ = c.cmd.Wait() // its log tells why
		close(c.ended)
	}()
	c.conn, err = connect(b.cfg.Progress, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	})
	if err != nil {
		return nil, err
	}
	c.ControllerClient, c.IdentityClient = csi.NewControllerClient(c.conn), csi.NewIdentityClient(c.conn)
	return c, probe(ctx, "the controller", c.IdentityClient)
}

// Pid is the process id of the plugin, on this host.
func (c *Controller) Pid() int { return c.cmd.Process.Pid }

func (c *Controller) stop() error {
	if c.conn != nil {
		if err := c.conn.Close(); err != nil {
			return err
		}
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err == nil {
		<-c.ended
	}
	return nil
}

// connect makes a gRPC client over a dialer.
func connect(progress io.Writer, dial func(context.Context) (net.Conn, error)) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///csi",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(unlessBusy(progress)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
}

// probe waits until a plugin says that it is ready.
func probe(ctx context.Context, who string, c csi.IdentityClient) error {
	return eventually(ctx, who+" to be ready", time.Minute, func() error {
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		res, err := c.Probe(once, &csi.ProbeRequest{})
		if err != nil {
			return err
		}
		if ready := res.GetReady(); ready != nil && !ready.GetValue() {
			return fmt.Errorf("%s is not ready yet", who)
		}
		return nil
	})
}

// unlessBusy repeats a call, as kubelet and the sidecars do, while another has the volume: Reconcile, for a
// moment, is one. For how long it did, progress hears: nobody else would see a volume that is let go too late.
func unlessBusy(progress io.Writer) grpc.UnaryClientInterceptor {
	const patience = 90 * time.Second // for a step that outlives its call, as one that waits for a path does
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		began := time.Now()
		var busy error
		defer func() {
			if busy != nil {
				_, _ = fmt.Fprintf(progress, "%s was repeated for %.1f s: %v\n", path.Base(method), time.Since(began).Seconds(), busy)
			}
		}()
		for {
			err := call(ctx, method, req, reply, conn, opts...)
			if status.Code(err) != codes.Aborted || time.Since(began) > patience {
				return err
			}
			busy = err
			select {
			case <-ctx.Done():
				return err
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
}
