using System;
using System.Threading;

namespace Everscene
{
    /// <summary>Where the frames socket is, and which topic to take there.</summary>
    internal sealed class FramesPlan
    {
        public Endpoint Endpoint;
        public Transport Transport;
        public long Epoch;

        public string Topic =>
            Transport == Transport.Ring ? "frame.ring" : Transport == Transport.Raw ? "frame.raw" : "frame.jpeg";

        public bool IsLike(FramesPlan other) =>
            other != null && Endpoint.ToString() == other.Endpoint.ToString() && Transport == other.Transport;
    }

    /// <summary>
    /// The frames socket: one thread that hears notices, and takes in whole pictures where there is no ring. A notice or
    /// a raw picture allocates nothing once the buffers have their size.
    /// </summary>
    internal sealed class FramesLink
    {
        const int FirstPauseMs = 100;
        const int LongestPauseMs = 2000;
        const int PatienceMs = 2000;
        const int NoticeLimit = 16 * 1024 * 1024;
        const int PictureLimit = 64 * 1024 * 1024;

        readonly string token;
        readonly NewsQueue news;
        readonly FrameSource source;
        readonly Action<FramesPlan> onForeignEpoch;
        readonly Action<RingAddress> onRingChanged;
        readonly ManualResetEvent stop = new ManualResetEvent(false);
        readonly AutoResetEvent planned = new AutoResetEvent(false);
        readonly object gate = new object();
        readonly Thread thread;
        FramesPlan plan;
        ZmtpConnection connection;
        bool stopping;
        long missingSinceMs = -1; // since when there should be a connection and is none; -1 = there is one, or no plan
        string cause = "";
        bool isHopeless;

        byte[] topic = new byte[64];
        byte[] body = new byte[16 * 1024];
        byte[] rest = new byte[1024];
        byte[] promptBytes;
        string prompt;

        public FramesLink(
            string token, NewsQueue news, FrameSource source, Action<FramesPlan> onForeignEpoch, Action<RingAddress> onRingChanged)
        {
            this.token = token;
            this.news = news;
            this.source = source;
            this.onForeignEpoch = onForeignEpoch;
            this.onRingChanged = onRingChanged;
            thread = new Thread(Run) { IsBackground = true, Name = "Everscene frames" };
        }

        public void Start() => thread.Start();

        /// <summary>Follows another plan from now on; a connection that fits it stays.</summary>
        public void Follow(FramesPlan next)
        {
            lock (gate)
            {
                bool same = next.IsLike(plan);
                plan = next;
                if (!same && connection != null) connection.Abort();
                missingSinceMs = -1;
                if (connection == null) Miss("no answer yet", false);
            }
            planned.Set();
        }

        /// <summary>
        /// What is wrong with this socket: that the server could not be reached here for about 2 s, and why; empty when all is
        /// well. Only while the control socket stands it means anything.
        /// </summary>
        public string Problem(long nowMs)
        {
            lock (gate)
            {
                bool isLong = missingSinceMs >= 0 && (isHopeless || nowMs - missingSinceMs >= PatienceMs);
                return isLong ? "the frames socket " + plan.Endpoint + " cannot be reached: " + cause : "";
            }
        }

        // Under the gate.
        void Miss(string why, bool hopeless)
        {
            if (missingSinceMs < 0) missingSinceMs = ControlLink.NowMs;
            cause = why;
            isHopeless = hopeless;
        }

        public void Stop(int milliseconds)
        {
            long until = ControlLink.NowMs + milliseconds;
            lock (gate)
            {
                stopping = true;
                if (connection != null) connection.Abort();
            }
            stop.Set();
            ControlLink.Join(thread, until);
        }

        void Run()
        {
            var wakers = new WaitHandle[] { stop, planned };
            int pause = FirstPauseMs;
            while (true)
            {
                FramesPlan current;
                lock (gate)
                {
                    if (stopping) return;
                    current = plan;
                }
                if (current == null)
                {
                    WaitHandle.WaitAny(wakers);
                    continue;
                }
                bool heard = false;
                try
                {
                    Hear(current, ref heard);
                }
                catch (ConnectionException failure)
                {
                    lock (gate) Miss(failure.Message, failure.Fatal);
                }
                lock (gate) connection = null;
                pause = heard ? FirstPauseMs : Math.Min(pause * 2, LongestPauseMs);
                bool again;
                lock (gate) again = plan.IsLike(current) && !stopping;
                if (again) WaitHandle.WaitAny(wakers, pause);
            }
        }

        void Hear(FramesPlan current, ref bool heard)
        {
            using (ZmtpConnection opened = ZmtpConnection.Open(current.Endpoint, "SUB", token, stop))
            {
                lock (gate)
                {
                    if (stopping || !current.IsLike(plan)) return;
                    connection = opened;
                    missingSinceMs = -1;
                }
                opened.Subscribe(current.Topic);
                opened.Subscribe("notice");
                while (true)
                {
                    HearMessage(opened, current);
                    heard = true;
                }
            }
        }

        void HearMessage(ZmtpConnection from, FramesPlan current)
        {
            int topicLength = from.Receive(ref topic, NoticeLimit, out bool more);
            if (!more) return;
            int length = from.Receive(ref body, NoticeLimit, out more);
            try
            {
                var reader = new MsgPackReader(body, 0, length);
                if (TopicIs("notice", topicLength)) HearNotice(reader);
                else if (TopicIs("frame.ring", topicLength)) HearFrame(ref reader, current);
                else if (more && TopicIs(current.Topic, topicLength)) HearPicture(from, ref reader, current, ref more);
            }
            catch (MessageException broken)
            {
                news.Add(new News(NewsKind.Trouble, "frames: a message that breaks the protocol: " + broken.Message));
            }
            while (more) from.Receive(ref rest, PictureLimit, out more);
        }

        void HearFrame(ref MsgPackReader reader, FramesPlan current)
        {
            FrameInfo info = ReadFrame(ref reader, Transport.Ring);
            CheckEpoch(info.Epoch);
            source.Note(ref info);
            news.Wake();
        }

        void HearPicture(ZmtpConnection from, ref MsgPackReader reader, FramesPlan current, ref bool more)
        {
            FrameInfo info = ReadFrame(ref reader, current.Transport);
            CheckEpoch(info.Epoch);
            int slot = source.Inline.Take();
            bool filled = false;
            try
            {
                int length = from.Receive(ref source.Inline.Bytes(slot), PictureLimit, out more);
                bool whole = current.Transport == Transport.Jpeg ? length > 0 : length == (long)info.Stride * info.Height;
                if (!whole) throw new MessageException("a picture of " + length + " bytes for " + info.Width + "×" + info.Height);
                source.Inline.Filled(slot, length, ref info);
                filled = true;
            }
            finally
            {
                if (!filled) source.Inline.Abandon(slot);
            }
            news.Wake();
        }

        void CheckEpoch(long epoch)
        {
            FramesPlan present;
            lock (gate) present = plan;
            if (epoch != present.Epoch) onForeignEpoch(present);
        }

        FrameInfo ReadFrame(ref MsgPackReader reader, Transport transport)
        {
            var info = new FrameInfo { Transport = transport };
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("frame")) info.Number = reader.Integer();
                else if (key.Is("epoch")) info.Epoch = reader.Integer();
                else if (key.Is("width")) info.Width = (int)reader.Integer();
                else if (key.Is("height")) info.Height = (int)reader.Integer();
                else if (key.Is("stride")) info.Stride = (int)reader.Integer();
                else if (key.Is("pts_ns")) info.PtsNs = reader.Integer();
                else if (key.Is("chunk")) info.Chunk = reader.Integer();
                else if (key.Is("index")) info.Index = (int)reader.Integer();
                else if (key.Is("order")) info.Order = reader.Integer();
                else if (key.Is("flags")) info.Flags = (FrameFlags)reader.Integer();
                else if (key.Is("prompt") && !reader.TryNil()) info.Prompt = prompt = reader.Text(ref promptBytes, prompt);
                else if (key.Is("stamps_ns")) ReadStamps(ref reader, ref info.Stamps);
                else reader.Skip();
            }
            info.CommitNs = info.Stamps.Published;
            bool good = info.Number > 0 && info.Epoch > 0 && info.Width > 0 && info.Height > 0 && info.Width <= 65536
                && info.Height <= 65536 && info.Stride >= info.Width * 4 && (long)info.Stride * info.Height <= int.MaxValue;
            if (!good) throw new MessageException("a frame notice without a number, an epoch or a size");
            return info;
        }

        static void ReadStamps(ref MsgPackReader reader, ref FrameStamps stamps)
        {
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("received")) stamps.Received = reader.Integer();
                else if (key.Is("recached")) stamps.Recached = reader.Integer();
                else if (key.Is("denoised")) stamps.Denoised = reader.Integer();
                else if (key.Is("decoded")) stamps.Decoded = reader.Integer();
                else if (key.Is("published")) stamps.Published = reader.Integer();
                else reader.Skip();
            }
        }

        void HearNotice(MsgPackReader reader)
        {
            string kind = null, text = null, state = null, reason = null, client = null, input = null;
            SceneDescription scene = null;
            RingAddress ring = null;
            long order = 0;
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("kind")) kind = reader.Text();
                else if (key.Is("text")) text = reader.TextOrNil();
                else if (key.Is("state")) state = reader.TextOrNil();
                else if (key.Is("reason")) reason = reader.TextOrNil();
                else if (key.Is("order")) order = reader.Integer();
                else if (key.Is("client")) client = reader.TextOrNil();
                else if (key.Is("event") || key.Is("prompt")) input = reader.TextOrNil() ?? input;
                else if (key.Is("slots")) input = ReadSlots(ref reader) ?? input;
                else if (key.Is("scene")) scene = SceneDescription.Read(ref reader);
                else if (key.Is("ring")) ring = RingAddress.Read(ref reader);
                else reader.Skip();
            }
            if (kind == "prompt" && text != null) news.Add(new News(NewsKind.Prompt, text, null, order));
            else if (kind == "state" && state != null) news.Add(new News(NewsKind.State, state, reason ?? ""));
            else if (kind == "scene" && scene != null) news.Add(new News(NewsKind.Scene, null, scene));
            else if (kind == "input" && input != null) news.Add(new News(NewsKind.Input, input, client ?? "", order));
            else if (kind == "ring_changed") onRingChanged(ring);
        }

        // Null for nil.
        static string ReadSlots(ref MsgPackReader reader)
        {
            if (reader.TryNil()) return null;
            string all = "";
            for (int pairs = reader.Map(); pairs > 0; pairs--) all = EversceneClient.WithSlot(all, reader.Text(), reader.Text());
            return all;
        }

        bool TopicIs(string word, int length)
        {
            if (word.Length != length) return false;
            for (int i = 0; i < length; i++)
                if (topic[i] != word[i]) return false;
            return true;
        }
    }
}
