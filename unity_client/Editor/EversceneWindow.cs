using System;
using System.Collections.Generic;
using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>
    /// What the sidecar says: its log when it was started here, its state, its figures, everyone's events as they come, and
    /// buttons for the scene, without any scene of Unity open. The window is a client of its own.
    /// </summary>
    public sealed class EversceneWindow : EditorWindow
    {
        const int LogBytes = 8192;
        const int InputsShown = 8;
        const double RefreshSeconds = 0.25;

        [SerializeField] string endpoint = "tcp://127.0.0.1:7464";
        [SerializeField] string arguments = "--model pocket";
        [SerializeField] Vector2 scroll;

        readonly EventButtons buttons = new EventButtons();
        readonly List<string> inputs = new List<string>();
        EversceneClient client;
        string problem = "";
        double refreshAt;

        [MenuItem("Window/Everscene")]
        public static void Open() => GetWindow<EversceneWindow>("Everscene");

        void OnEnable()
        {
            EditorApplication.update += Refresh;
            AssemblyReloadEvents.beforeAssemblyReload += ReleaseClient;
        }

        void OnDisable()
        {
            EditorApplication.update -= Refresh;
            AssemblyReloadEvents.beforeAssemblyReload -= ReleaseClient;
            ReleaseClient();
        }

        void Refresh()
        {
            client?.Poll();
            if (EditorApplication.timeSinceStartup < refreshAt) return;
            refreshAt = EditorApplication.timeSinceStartup + RefreshSeconds;
            if (client != null) client.RequestStats();
            Repaint();
        }

        void OnGUI()
        {
            scroll = EditorGUILayout.BeginScrollView(scroll);
            DrawProcess();
            EditorGUILayout.Space();
            DrawConnection();
            EditorGUILayout.EndScrollView();
        }

        void DrawProcess()
        {
            EditorGUILayout.LabelField("Sidecar", EditorStyles.boldLabel);
            Sidecar.Command = EditorGUILayout.TextField("Command", Sidecar.Command);
            arguments = EditorGUILayout.TextField("Arguments", arguments);
            EditorGUILayout.BeginHorizontal();
            EditorGUILayout.LabelField(Sidecar.IsRunning ? "started from here, running" : "not started from here");
            if (!Sidecar.IsRunning && GUILayout.Button("Start")) Sidecar.Start(arguments);
            if (Sidecar.IsRunning && GUILayout.Button("Stop")) Sidecar.Stop();
            EditorGUILayout.EndHorizontal();
            string said = SidecarProcess.Tail(Sidecar.Log, LogBytes);
            if (said.Length > 0) EditorGUILayout.TextArea(said, EditorStyles.wordWrappedLabel);
        }

        void DrawConnection()
        {
            EditorGUILayout.LabelField("Connection", EditorStyles.boldLabel);
            endpoint = EditorGUILayout.TextField("Endpoint", endpoint);
            if (client == null && GUILayout.Button("Connect")) PrepareClient();
            else if (client != null && GUILayout.Button("Disconnect")) ReleaseClient();
            ReadOut.Draw(client, client == null ? problem : client.LastError);
            DrawStats();
            foreach (string input in inputs) EditorGUILayout.LabelField(input, EditorStyles.miniLabel);
            buttons.Draw(client);
        }

        void DrawStats()
        {
            ServerStats stats = client?.LatestStats;
            if (stats == null) return;
            EditorGUILayout.LabelField("Server", stats.Fps.ToString("0.0") + " fps published, "
                + stats.GenerationFps.ToString("0.0") + " fps generated, lead " + stats.LeadMs.ToString("0") + " ms");
            EditorGUILayout.LabelField("Event to frame", "p50 " + stats.LatencyMs.P50.ToString("0") + " ms, p95 "
                + stats.LatencyMs.P95.ToString("0") + " ms, n " + stats.LatencyMs.N);
        }

        void PrepareClient()
        {
            problem = "";
            try
            {
                client = new EversceneClient(new ClientSettings
                {
                    Endpoint = endpoint,
                    Token = Environment.GetEnvironmentVariable(EversceneStream.TokenVariable) ?? "",
                    Name = "unity editor",
                });
                client.InputAccepted += HearInput;
            }
            catch (ArgumentException wrong)
            {
                problem = wrong.Message;
            }
        }

        void ReleaseClient()
        {
            if (client == null) return;
            EversceneClient last = client;
            client = null;
            last.Dispose();
        }

        void HearInput(string input, string sender)
        {
            inputs.Insert(0, sender + ": " + input);
            if (inputs.Count > InputsShown) inputs.RemoveAt(InputsShown);
        }
    }
}
