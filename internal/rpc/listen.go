package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxPath is the longest socket path the kernel takes: sun_path of
// sockaddr_un is 108 bytes with its terminating zero (unix(7)).
const maxPath = 107

// dialTimeout bounds the question whether somebody listens on an existing
// socket. A listener whose backlog is full does not answer: it is taken for
// alive.
const dialTimeout = time.Second

// Listen listens on a unix domain socket. The endpoint is unix:///dir/name.sock,
// unix:/dir/name.sock, unix:name.sock (relative to the working directory) or an
// absolute path. The directory that holds the socket is made when missing, its
// parents are not: a mistyped path must not become a socket nobody looks for.
//
// A socket left by a dead process is replaced; one that somebody listens on,
// and a file that is no socket, are errors. The socket admits its owner and its
// group. Closing the listener removes it.
func Listen(ctx context.Context, endpoint string) (net.Listener, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err = removeStale(ctx, path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The socket was born with the umask's permissions, which admit at most the
	// same user; widening them to the group is the last step.
	if err = os.Chmod(path, 0o660); err != nil { //nolint:gosec // the sidecars of the pod share the group, not the user
		return nil, errors.Join(fmt.Errorf("open %s to its group: %w", path, err), l.Close())
	}
	return l, nil
}

// CheckEndpoint says whether Listen would understand the endpoint, without
// touching the file system.
func CheckEndpoint(endpoint string) error {
	_, err := socketPath(endpoint)
	return err
}

func socketPath(endpoint string) (string, error) {
	path := endpoint
	rest, isUnix := strings.CutPrefix(endpoint, "unix:")
	switch {
	case isUnix && strings.HasPrefix(rest, "//"):
		if path = rest[2:]; !filepath.IsAbs(path) {
			return "", fmt.Errorf("endpoint %q has no absolute path: write three slashes, as in unix:///csi/csi.sock", endpoint)
		}
	case isUnix:
		path = rest
	case !filepath.IsAbs(path):
		return "", fmt.Errorf("endpoint %q is not a unix domain socket: write unix:///csi/csi.sock or an absolute path; "+
			"a network address would offer every caller root on this host", endpoint)
	}
	if path == "" || strings.HasSuffix(path, "/") {
		return "", fmt.Errorf("endpoint %q names no socket: write unix:///csi/csi.sock or an absolute path", endpoint)
	}
	if strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("endpoint %q contains a zero byte", endpoint)
	}
	path = filepath.Clean(path)
	if len(path) > maxPath {
		return "", fmt.Errorf("endpoint %q: the path is %d bytes, the kernel takes at most %d: choose a shorter directory", endpoint, len(path), maxPath)
	}
	return path, nil
}

// lockDir makes dir when it is missing and holds it while a socket in it is
// examined and replaced, so that two plugins that start together cannot both
// find a stale socket and each remove the other's new one.
func lockDir(dir string) (unlock func(), err error) {
	if err = os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("directory %s for the socket: its parent does not exist: is the volume of the socket mounted, and the path right?", dir)
		}
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of the socket: %w", err)
	}
	if err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process opens a socket in %s at this moment: give each plugin a directory of its own", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { _ = d.Close() }, nil // closing gives the lock back
}

// removeStale removes what a dead process left at path. Only a refused
// connection proves that nobody listens.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket (%s): remove it or choose another endpoint", path, info.Mode())
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("somebody listens on %s already: is another copy of the plugin running?", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask whether somebody listens on %s: %w", path, err)
	}
	if err = os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of a dead process: %w", err)
	}
	return nil
}
