/* Search from disk: browsers allow no worker in a page opened as file://, so a hidden frame does its work. */
(function () {
  if (location.protocol !== "file:") return

  class FrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      this.receive = event => {
        if (event.source !== this.frame.contentWindow) return
        this.dispatchEvent(new MessageEvent("message", { data: event.data }))
        if (this.onmessage) this.onmessage(event)
      }
      addEventListener("message", this.receive)
      const inside = this.frame.contentWindow.document
      inside.open()
      inside.write(`<script>
        postMessage = parent.postMessage.bind(parent)
        importScripts = (...urls) => urls.reduce((earlier, url) => earlier.then(() => new Promise(done => {
          const script = document.createElement("script")
          script.src = url
          script.onload = done
          document.head.appendChild(script)
        })), Promise.resolve())
      </` + `script><script src="${new URL(url, location.href)}"></` + `script>`)
      inside.close()
      this.ready = new Promise(done => { this.frame.contentWindow.onload = done })
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      removeEventListener("message", this.receive)
      this.frame.remove()
    }
  }
  window.Worker = FrameWorker
})()
