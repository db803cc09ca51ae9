package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/datera-csi/datera-csi/internal/rpc"
)

const canary = "canary-secret-7f3a"

// node answers NodeStageVolume with stage.
type node struct {
	csi.UnimplementedNodeServer
	stage func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error)
}

func (n node) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return n.stage(ctx, req)
}

// log collects what is logged.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *log) logger(verbosity int) klog.Logger {
	return textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(l), textlogger.Verbosity(verbosity)))
}

type serving struct {
	server *rpc.Server
	client csi.NodeClient
	stop   context.CancelFunc // as SIGTERM does
	done   chan error         // what Serve returned
	log    *log
}

// serve runs a server with one node service until the test ends.
func serve(t *testing.T, cfg rpc.Config, verbosity int, stage func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error)) *serving {
	t.Helper()
	s := &serving{done: make(chan error, 1), log: &log{}}
	cfg.Log = s.log.logger(verbosity)
	s.server = rpc.New(cfg)
	csi.RegisterNodeServer(s.server, node{stage: stage})
	path := filepath.Join(t.TempDir(), "csi.sock")
	l, err := rpc.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	ended := make(chan struct{})
	go func() { s.done <- s.server.Serve(ctx, l); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.client = csi.NewNodeClient(conn)
	return s
}

func request() *csi.NodeStageVolumeRequest {
	return &csi.NodeStageVolumeRequest{VolumeId: "CSI-pvc-1", Secrets: map[string]string{"password": canary, "more": canary + "-longer"}}
}

func TestErrorsGetTheirCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"a status stays":          {status.Error(codes.ResourceExhausted, "full"), codes.ResourceExhausted},
		"a wrapped status stays":  {fmt.Errorf("stage: %w", status.Error(codes.NotFound, "gone")), codes.NotFound},
		"a bare deadline":         {fmt.Errorf("wait for the disk: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		"a bare cancel":           {fmt.Errorf("wait for the disk: %w", context.Canceled), codes.Canceled},
		"a surprise":              {errors.New("disk on fire"), codes.Internal},
		"a status above deadline": {status.Error(codes.Unavailable, context.DeadlineExceeded.Error()), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, rpc.Config{Grace: time.Second}, 0, func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
				return nil, c.err
			})
			_, err := s.client.NodeStageVolume(t.Context(), request())
			if got := status.Code(err); got != c.want {
				t.Errorf("code %v, want %v (%v)", got, c.want, err)
			}
		})
	}
}

func TestAFailedCallIsLoggedOnce(t *testing.T) {
	s := serve(t, rpc.Config{Grace: time.Second}, 0, func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
		return nil, status.Error(codes.FailedPrecondition, "the device is not the one promised")
	})
	_, err := s.client.NodeStageVolume(t.Context(), request())
	if err == nil {
		t.Fatal("want an error")
	}
	got := s.log.String()
	if n := strings.Count(got, "the device is not the one promised"); n != 1 {
		t.Errorf("the error is in the log %d times, want once:\n%s", n, got)
	}
	for _, want := range []string{`method="/csi.v1.Node/NodeStageVolume"`, `code="FailedPrecondition"`, "call=1"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "CSI-pvc-1") {
		t.Errorf("the request is in the log below V(4):\n%s", got)
	}
}

func TestSecretsAreNeverLoggedNorAnswered(t *testing.T) {
	for name, stage := range map[string]func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error){
		"success": func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
			return &csi.NodeStageVolumeResponse{}, nil
		},
		"a tool quotes its input": func(_ context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
			return nil, status.Errorf(codes.Unauthenticated, "iscsiadm: bad value %q", req.GetSecrets()["password"])
		},
		"one secret begins another": func(_ context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
			return nil, errors.New("iscsiadm: bad value " + req.GetSecrets()["more"])
		},
		"a panic": func(_ context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
			panic(req.GetSecrets()["password"])
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, rpc.Config{Grace: time.Second}, 10, stage)
			_, err := s.client.NodeStageVolume(t.Context(), request())
			if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "-longer")) {
				t.Errorf("the answer tells a secret: %v", err)
			}
			got := s.log.String()
			if !strings.Contains(got, "CSI-pvc-1") {
				t.Errorf("the request is not in the log at V(10), the test proves nothing:\n%s", got)
			}
			if strings.Contains(got, canary) {
				t.Errorf("the log tells a secret:\n%s", got)
			}
		})
	}
}

func TestAPanicIsOneFailedCallNotADeadPlugin(t *testing.T) {
	calls := 0
	s := serve(t, rpc.Config{Grace: time.Second}, 0, func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
		if calls++; calls == 1 {
			_ = []string{}[calls]
		}
		return &csi.NodeStageVolumeResponse{}, nil
	})
	_, err := s.client.NodeStageVolume(t.Context(), request())
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "NodeStageVolume panicked: runtime error: index out of range") {
		t.Errorf("got %v, want Internal that names the method and the panic", err)
	}
	if got := s.log.String(); !strings.Contains(got, "server_test.go") {
		t.Errorf("the log has no stack that leads here:\n%s", got)
	}
	if _, err = s.client.NodeStageVolume(t.Context(), request()); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestHandlersLogWithMethodAndCall(t *testing.T) {
	s := serve(t, rpc.Config{Grace: time.Second}, 0, func(ctx context.Context, _ *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
		klog.FromContext(ctx).Info("Formatting")
		return &csi.NodeStageVolumeResponse{}, nil
	})
	if _, err := s.client.NodeStageVolume(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	got := s.log.String()
	if !strings.Contains(got, `"Formatting" method="/csi.v1.Node/NodeStageVolume" call=1`) {
		t.Errorf("the handler's line does not tell its call:\n%s", got)
	}
}

func TestStopLetsRunningCallsEnd(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s := serve(t, rpc.Config{Grace: time.Minute}, 0, func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
		close(started)
		<-release
		return &csi.NodeStageVolumeResponse{}, nil
	})
	answered := make(chan error, 1)
	go func() {
		_, err := s.client.NodeStageVolume(context.Background(), request())
		answered <- err
	}()
	<-started
	if got := s.server.Running(); len(got) != 1 || got[0].Method != "/csi.v1.Node/NodeStageVolume" || got[0].ID != 1 {
		t.Errorf("Running() = %+v, want the one stage", got)
	}
	s.stop()
	select {
	case err := <-s.done:
		t.Fatalf("Serve returned %v while a call was running", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the running call: %v", err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if got := s.server.Running(); len(got) != 0 {
		t.Errorf("Running() = %+v after the end, want none", got)
	}
}

func TestStopCancelsCallsThatOutlastTheGrace(t *testing.T) {
	started := make(chan struct{})
	s := serve(t, rpc.Config{Grace: 50 * time.Millisecond, Abort: time.Minute}, 0, func(ctx context.Context, _ *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	go func() { _, _ = s.client.NodeStageVolume(context.Background(), request()) }()
	<-started
	s.stop()
	if err := <-s.done; err != nil {
		t.Errorf("Serve: %v, want nil: the call ended when it was cancelled", err)
	}
}

func TestStopNamesCallsItMustAbandon(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	s := serve(t, rpc.Config{Grace: 20 * time.Millisecond, Abort: 20 * time.Millisecond}, 0, func(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
		close(started)
		<-release // deaf to its ctx, as a read of a dead disk is
		return &csi.NodeStageVolumeResponse{}, nil
	})
	go func() { _, _ = s.client.NodeStageVolume(context.Background(), request()) }()
	<-started
	s.stop()
	if err := <-s.done; err == nil || !strings.Contains(err.Error(), "/csi.v1.Node/NodeStageVolume (call 1, for ") {
		t.Errorf("Serve = %v, want an error that names the call", err)
	}
}

func TestServeReturnsWhenToldBeforeItBegan(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "csi.sock")
	l, err := rpc.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err = rpc.New(rpc.Config{Log: (&log{}).logger(0), Grace: time.Second}).Serve(ctx, l); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err = os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}
