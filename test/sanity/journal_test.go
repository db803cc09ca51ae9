package sanity_test

import (
	"bytes"
	"sync"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// journal keeps everything that the plugin logs, requests and answers too.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) logger() klog.Logger {
	return textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(j), textlogger.Verbosity(9)))
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}
